"""The configs of segmentation by text alone: what they say, and a run of the miniature's on pictures of two halves."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from clipself_d2.data import register_semantic
from clipself_d2.engine.config import load_config, target
from clipself_d2.engine.main import main
from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.semantic import ZeroShotSegmenter

CONFIGS = Path(__file__).parents[2] / "configs"
TOWERS = {
    "openai_b16": ("ViT-B-16-quickgelu", "openai", 1024),
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 672),
    "eva02_b16": ("EVA02-B-16", "merged2b_s8b_b131k", 1024),
    "eva02_l14_336": ("EVA02-L-14-336", "merged2b_s6b_b61k", 896),
}
ROWS = [(tower, end) for tower in TOWERS for end in ("", "_clipself_patches")]


def path(tower, end):
    return CONFIGS / f"semantic/zero_shot_{tower}_ade20k{end}.py"


def test_these_and_no_others():
    assert sorted((CONFIGS / "semantic").glob("zero_shot_*.py")) == sorted(path(*row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids="".join)
def test_values_are_those_of_its_name(row):
    tower, end = row
    name, tag, size = TOWERS[tower]
    cfg = load_config(path(*row))
    distillation = load_config(CONFIGS / f"distillation/clipself_{tower}_coco_patches.py")
    exported = f"{distillation.train.output_dir}/tower.safetensors"
    assert cfg.clip == {"name": name, "pretrained": exported if end else tag}
    assert name == distillation.clip.name and tag in open_clip.list_pretrained_tags_by_model(name)
    assert target(cfg.model) is ZeroShotSegmenter
    assert cfg.model.size == size == distillation.model.student_size
    assert cfg.model.tower.name == cfg.model.vocabulary.text.tower.module.name == name
    assert cfg.model.vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == "ade20k_150_val_sem_seg"
    assert cfg.train.output_dir == f"output/{path(*row).stem}"
    text = path(*row).read_text()
    assert f"configs/semantic/{path(*row).name}" in text


def test_the_miniature_s():
    cfg = load_config(CONFIGS / "miniature/zero_shot_semantic.py")
    assert cfg.clip == {"name": MODEL, "pretrained": WEIGHTS}
    assert (cfg.model.size, cfg.model.temperature) == (128, 20)
    assert cfg.dataloader.test.dataset == "ov_shapes_val_semantic"
    assert cfg.train.output_dir == "output/miniature_zero_shot_semantic"


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """Photographs of other sizes than the model's: a lawn over a pond, as plain colours, and its labels."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, (height, width) in enumerate([(60, 90), (70, 50)]):
        labels = (np.arange(height)[:, None].repeat(width, 1) >= height // 2).astype(np.uint8)
        colours = np.array([[60, 150, 60], [40, 110, 190]], dtype=np.uint8)
        Image.fromarray(colours[labels]).save(tmp_path / f"images/{number}.png")
        Image.fromarray(labels).save(tmp_path / f"labels/{number}.png")
    synonyms = [["lawn"], ["pond"]]
    register_semantic("halves", image_root=tmp_path / "images", label_root=tmp_path / "labels", synonyms=synonyms)
    return tmp_path


@pytest.mark.parametrize("options", [[], ["model.finer=2", "model.scoring=patch_weighted", "model.denoise=0.3"]])
def test_a_run(halves, options):
    arguments = ["--config-file", str(CONFIGS / "miniature/zero_shot_semantic.py"), "--eval-only"]
    overrides = ["dataloader.test.dataset=halves", "train.device=cpu", f"train.output_dir={halves}/run", *options]
    assert main([*arguments, *overrides]) == 0
    results = json.loads((halves / "run/results.json").read_text())
    assert 0 <= results["sem_seg"]["mIoU"] <= 100 and "mACC" in results["sem_seg"]


def test_training_is_refused_in_one_line(halves, capsys):
    arguments = ["--config-file", str(CONFIGS / "miniature/zero_shot_semantic.py"), "train.device=cpu"]
    assert main([*arguments, "dataloader.test.dataset=halves", f"train.output_dir={halves}/run"]) == 2
    assert "--eval-only" in capsys.readouterr().err.splitlines()[-1]
