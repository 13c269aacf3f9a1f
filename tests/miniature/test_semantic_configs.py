"""The miniature's CAT-Seg, end to end in a world of a few scenes."""

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from clipself_d2.data import PanopticMapper, get_dataset
from clipself_d2.engine.main import main
from clipself_d2.miniature.world import CLASSES

CONFIG = Path(__file__).parents[2] / "configs/miniature/cat_seg.py"


@pytest.fixture(autouse=True)
def _quiet():
    yield
    for name in ("clipself_d2", "detectron2", "fvcore"):  # a run's handlers would stay
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


@pytest.fixture
def semantic_world(small_world, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))


def labels(dataset):
    return [PanopticMapper()(record)["sem_seg"] for record in get_dataset(dataset)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_novel_classes_are_hidden_in_training_alone(semantic_world, split):
    novel = MetadataCatalog.get(f"ov_shapes_{split}_semantic").novel_classes
    numbers = torch.tensor([CLASSES.index(name) for name in novel])
    for told, true in zip(labels(f"ov_shapes_{split}_semantic"), labels(f"ov_shapes_{split}_panoptic"), strict=True):
        hidden = torch.isin(true, numbers) if split == "train" else torch.zeros_like(true, dtype=torch.bool)
        assert torch.equal(told, true.where(~hidden, 255))
    assert len(novel) == 34


def test_it_trains_and_is_evaluated(semantic_world, tmp_path):
    options = ["train.max_iter=2", "train.log_period=1", "train.device=cpu", f"train.output_dir={tmp_path / 'run'}"]
    options += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "model.train_classes=6"]
    assert main(["--config-file", str(CONFIG), *options]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert all(0 < line["total_loss"] < 2 for line in lines if "total_loss" in line)
    results = json.loads((tmp_path / "run/results.json").read_text())["sem_seg"]
    assert {"mIoU", "mACC", "mIoU_seen", "mIoU_novel"} <= set(results)
    again = tmp_path / "again"
    checkpoint = f"train.init_checkpoint={tmp_path / 'run/checkpoint_0000002.pth'}"
    arguments = ["--config-file", str(CONFIG), "--eval-only", "train.device=cpu", f"train.output_dir={again}"]
    assert main([*arguments, checkpoint]) == 0
    assert json.loads((again / "results.json").read_text())["sem_seg"] == pytest.approx(results)
