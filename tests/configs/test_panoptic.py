"""The configs of panoptic segmentation: each generator's values, and the overrides that make a row."""

import json
from pathlib import Path

import open_clip
import pytest
from omegaconf import OmegaConf

from clipself_d2.engine.config import load_config, target
from clipself_d2.engine.main import main
from clipself_d2.panoptic import GroundTruthMasks, OpenVocabularyPanoptic, SAMMasks, SavedMasks, TransformersMasks

FOLDER = Path(__file__).parents[2] / "configs/panoptic"
WEIGHTS = {  # generator -> class, fusion, alpha, beta, templates
    "odise_caption": (SavedMasks, "odise", 0.35, 0.65, "photo"),
    "odise_label": (SavedMasks, "odise", 0.3, 0.7, "photo"),
    "fcclip": (SavedMasks, "fcclip", 0.4, 0.8, "vild"),
    "mask2former": (TransformersMasks, "fcclip", 0.4, 0.8, "vild"),
}
CLIPS = {  # overrides -> name, weights, image size
    (): ("ViT-L-14-336-quickgelu", "openai", 672),
    ("clip.name=EVA02-L-14-336", "clip.pretrained=merged2b_s6b_b61k", "model.size=896"): (
        "EVA02-L-14-336",
        "merged2b_s6b_b61k",
        896,
    ),
}
DATA = {(): "coco_2017_val_panoptic_ov", ("dataloader.test.dataset=ade20k_val_panoptic_ov",): "ade20k_val_panoptic_ov"}


def path(generator: str) -> Path:
    return FOLDER / f"{generator}_openai_l14_336_coco.py"


def test_there_is_one_file_per_generator():
    assert sorted(FOLDER.glob("*.py")) == sorted(map(path, [*WEIGHTS, "sam"]))


@pytest.mark.parametrize("generator", WEIGHTS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("data", DATA)
def test_values_are_those_of_its_name(generator, clip, data):
    cfg = load_config(path(generator), [*clip, *data])
    kind, fusion, alpha, beta, templates = WEIGHTS[generator]
    name, tag, size = CLIPS[clip]
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    model = cfg.model
    assert (target(model), target(model.generator)) == (OpenVocabularyPanoptic, kind)
    assert (model.fusion, model.alpha, model.beta, model.size) == (fusion, alpha, beta, size)
    assert (model.temperature, model.object_threshold, model.overlap_threshold, model.topk) == (100, 0, 0.8, 100)
    texts = [model.vocabulary.text, model.generator.text]
    for text in texts:
        assert (text.templates, text.synonyms) == (templates, "max")
        assert text.tower.device == cfg.train.device
    for node in (cfg.clip, model.tower, *(text.tower.module for text in texts)):
        assert (node.name, node.pretrained) == (name, tag)
    datasets = (cfg.dataloader.test.dataset, cfg.dataloader.evaluator.dataset_name)
    assert {*datasets, model.vocabulary.dataset, model.isthing.dataset} == {DATA[data]}
    if kind is SavedMasks:
        assert model.generator.folder == f"output/masks/{generator}_coco"


def test_sams_masks_are_named_by_clip_only():
    model = load_config(path("sam")).model
    assert (target(model), target(model.generator)) == (OpenVocabularyPanoptic, SAMMasks)
    assert (model.alpha, model.beta, model.overlap_threshold, model.mask_resize) == (1, 1, 0.1, "area")


def test_the_true_masks_are_named_by_clip_only():
    cfg = load_config(path("fcclip"), ["model.generator=${ground_truth}", "model.alpha=1", "model.beta=1"])
    assert target(cfg.model.generator) is GroundTruthMasks
    assert OmegaConf.to_container(cfg.model.generator) == {"_target_": GroundTruthMasks}


def test_there_is_nothing_to_train(tmp_path, capsys):
    """Without --eval-only the run ends before it needs any weights or data."""
    arguments = ["--config-file", str(path("odise_caption")), "train.device=cpu"]
    overrides = [f"train.output_dir={tmp_path}", "clip.pretrained=absent.safetensors"]
    assert main([*arguments, *overrides]) == 2
    assert "absent.safetensors" in capsys.readouterr().err


def test_a_folder_of_masks_that_is_not_there(tmp_path, monkeypatch, capsys):
    model = tmp_path / "tiny.json"
    vision = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    monkeypatch.chdir(tmp_path)
    arguments = ["--eval-only", "--config-file", str(path("fcclip")), "train.device=cpu"]
    assert main([*arguments, f"clip.name={model}", "clip.pretrained=null"]) == 2
    assert "output/masks/fcclip_coco: there is no such folder" in capsys.readouterr().err
