"""Every config of panoptic segmentation: that it fits the code and says what its file's name says."""

import ast
import json
import re
from pathlib import Path

import open_clip
import pytest
from omegaconf import OmegaConf

from clipself_d2.engine.config import load_config, target, train_settings
from clipself_d2.engine.main import main
from clipself_d2.panoptic import GroundTruthMasks, OpenVocabularyPanoptic, SavedMasks, TransformersMasks

FOLDER = Path(__file__).parents[2] / "configs/panoptic"
WEIGHTS = {  # generator -> class, fusion, alpha, beta, templates
    "odise_caption": (SavedMasks, "odise", 0.35, 0.65, "photo"),
    "odise_label": (SavedMasks, "odise", 0.3, 0.7, "photo"),
    "fcclip": (SavedMasks, "fcclip", 0.4, 0.8, "vild"),
    "mask2former": (TransformersMasks, "fcclip", 0.4, 0.8, "vild"),
    "ground_truth": (GroundTruthMasks, "fcclip", 1.0, 1.0, "vild"),
}
TOWERS = {  # -> open_clip's name and tag, image size
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 672),
    "eva02_l14_336": ("EVA02-L-14-336", "merged2b_s6b_b61k", 896),
}
DATA = {"coco": "coco_2017_val_panoptic_ov", "ade20k": "ade20k_val_panoptic_ov"}
PAIRS = [*((generator, "openai_l14_336") for generator in WEIGHTS), ("mask2former", "eva02_l14_336")]
ROWS = [(*pair, data, end) for pair in PAIRS for data in DATA for end in ("", "_clipself_patches")]
# Table 6 of the paper: PQ of CLIP only, PQ, mAP and mIoU fused; the last two where the paper's text gives them.
PAPER = {
    ("coco", ""): {"27.6", "45.3", "38.1", "52.3"},
    ("coco", "_clipself_patches"): {"35.1", "45.7"},
    ("ade20k", ""): {"15.3", "22.9", "13.4", "28.5"},
    ("ade20k", "_clipself_patches"): {"19.5", "23.7", "13.6", "30.1"},
}


def path(generator, tower, data, end):
    return FOLDER / f"{generator}_{tower}_{data}{end}.py"


def test_the_folder_holds_these_and_no_others():
    assert sorted(FOLDER.glob("*.py")) == sorted(path(*row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_values_are_those_of_its_name(row):
    generator, tower, data, end = row
    cfg = load_config(path(*row))
    kind, fusion, alpha, beta, templates = WEIGHTS[generator]
    name, tag, size = TOWERS[tower]
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    distilled = f"output/clipself_{tower}_coco_patches/tower.safetensors"
    assert (cfg.clip.name, cfg.clip.pretrained) == (name, distilled if end else tag)
    model = cfg.model
    assert target(model) is OpenVocabularyPanoptic
    assert target(model.generator) is kind
    assert (model.fusion, model.alpha, model.beta, model.size) == (fusion, alpha, beta, size)
    assert (model.temperature, model.object_threshold, model.overlap_threshold, model.topk) == (100, 0, 0.8, 100)
    texts = [model.vocabulary.text, *([] if generator == "ground_truth" else [model.generator.text])]
    for text in texts:
        assert (text.templates, text.synonyms) == (templates, "max")
        assert text.tower.device == cfg.train.device
    for node in (model.tower, *(text.tower.module for text in texts)):
        assert (node.name, node.pretrained) == (name, cfg.clip.pretrained)
    datasets = (cfg.dataloader.test.dataset, cfg.dataloader.evaluator.dataset_name)
    assert {*datasets, model.vocabulary.dataset, model.isthing.dataset} == {DATA[data]}
    assert Path(train_settings(cfg).output_dir) == Path("output") / path(*row).stem
    if kind is SavedMasks:
        assert model.generator.folder == f"output/masks/{generator}_{data}"
    assert set(OmegaConf.to_container(cfg)) == {"clip", "model", "dataloader", "optimizer", "lr_multiplier", "train"}


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_its_text_says_how_to_run_it(row):
    generator, tower, data, end = row
    text = ast.get_docstring(ast.parse(path(*row).read_text()))
    assert f"--config-file configs/panoptic/{path(*row).name}" in text
    assert "--eval-only" in text
    assert (f"configs/distillation/clipself_{tower}_coco_patches.py" in text) == bool(end)
    if generator == "odise_caption":
        line = next(line for line in text.splitlines() if line.startswith("Table 6"))
        assert set(re.findall(r"\d\d\.\d", line)) == PAPER[data, end]


def test_there_is_nothing_to_train(tmp_path, capsys):
    """Without --eval-only the run ends before it needs any weights or data."""
    arguments = ["--config-file", str(path("odise_caption", "openai_l14_336", "coco", "")), "train.device=cpu"]
    overrides = [f"train.output_dir={tmp_path}", "clip.pretrained=absent.safetensors"]
    assert main([*arguments, *overrides]) == 2
    assert "absent.safetensors" in capsys.readouterr().err


def test_a_folder_of_masks_that_is_not_there(tmp_path, monkeypatch, capsys):
    model = tmp_path / "tiny.json"
    vision = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    monkeypatch.chdir(tmp_path)
    arguments = [
        "--eval-only",
        "--config-file",
        str(path("fcclip", "openai_l14_336", "ade20k", "")),
        "train.device=cpu",
    ]
    assert main([*arguments, f"clip.name={model}", "clip.pretrained=random"]) == 2
    assert "output/masks/fcclip_ade20k: there is no such folder" in capsys.readouterr().err
