"""The configs of segmentation by text alone: what they say, and a run of the miniature's on images of two halves."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from clipself_d2.data import register_semantic
from clipself_d2.engine.config import load_config, target
from clipself_d2.engine.main import main
from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.semantic import ZeroShotSegmenter

CONFIGS = Path(__file__).parents[2] / "configs"
ZERO_SHOT = CONFIGS / "semantic/zero_shot_openai_b16_ade20k.py"
TOWERS = {  # CLIPSelf's config -> overrides of the zero-shot config
    "openai_b16": [],
    "openai_l14_336": ["clip.name=ViT-L-14-336-quickgelu", "model.size=672"],
    "eva02_b16": ["clip.name=EVA02-B-16", "clip.pretrained=merged2b_s8b_b131k"],
    "eva02_l14_336": ["clip.name=EVA02-L-14-336", "clip.pretrained=merged2b_s6b_b61k", "model.size=896"],
}


@pytest.mark.parametrize("tower", TOWERS)
def test_a_tower_is_named_by_overrides(tower):
    cfg = load_config(ZERO_SHOT, TOWERS[tower])
    distillation = load_config(CONFIGS / f"distillation/clipself_{tower}_coco_patches.py")
    assert cfg.clip == distillation.clip
    assert target(cfg.model) is ZeroShotSegmenter
    assert cfg.model.size == distillation.model.student_size
    assert cfg.model.tower.name == cfg.model.vocabulary.text.tower.module.name == cfg.clip.name
    assert cfg.model.vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == "ade20k_150_val_sem_seg"
    assert all(override in ZERO_SHOT.read_text() for override in TOWERS[tower])


def test_the_miniature_s():
    cfg = load_config(CONFIGS / "miniature/zero_shot_semantic.py")
    assert cfg.clip == {"name": MODEL, "pretrained": WEIGHTS}
    assert (cfg.model.size, cfg.model.temperature) == (128, 20)
    assert cfg.dataloader.test.dataset == "ov_shapes_val_semantic"
    assert cfg.train.output_dir == "output/zero_shot_semantic"


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """Images of other sizes than the model's: a lawn over a pond, as plain colors, and its labels."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, (height, width) in enumerate([(60, 90), (70, 50)]):
        labels = (np.arange(height)[:, None].repeat(width, 1) >= height // 2).astype(np.uint8)
        colors = np.array([[60, 150, 60], [40, 110, 190]], dtype=np.uint8)
        Image.fromarray(colors[labels]).save(tmp_path / f"images/{number}.png")
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
