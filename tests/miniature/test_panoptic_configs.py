"""The miniature's panoptic configs, end to end in a world of a few scenes."""

import json
import logging
from pathlib import Path

import pytest
import torch

from clipself_d2.clip.checkpoint import content_hash
from clipself_d2.engine.config import build, load_config
from clipself_d2.engine.main import main

FOLDER = Path(__file__).parents[2] / "configs/miniature"


@pytest.fixture(autouse=True)
def _quiet():
    yield
    for name in ("clipself_d2", "detectron2", "fvcore"):  # a run's handlers would stay
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


@pytest.fixture
def panoptic_world(small_world, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))


def evaluate(config, output, *overrides):
    arguments = ["--config-file", str(FOLDER / config), "--eval-only", "train.device=cpu", f"train.output_dir={output}"]
    assert main([*arguments, *overrides]) == 0
    return json.loads((output / "results.json").read_text())


def test_a_generator_trains_and_its_masks_are_named(panoptic_world, tmp_path):
    masks = tmp_path / "masks"
    options = ["train.max_iter=2", "train.log_period=1", "train.device=cpu", f"train.output_dir={masks}"]
    options += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    assert main(["--config-file", str(FOLDER / "panoptic_masks.py"), *options]) == 0
    lines = [json.loads(line) for line in (masks / "metrics.json").read_text().splitlines()]
    assert all(line[f"loss_{name}"] > 0 for line in lines for name in ("mask", "dice", "class", "mask_iou"))

    generator = f"model.generator.checkpoint={masks / 'checkpoint_0000002.pth'}"
    results = evaluate("panoptic.py", tmp_path / "named", generator, "model.generator.model.min_mask_iou=0")
    assert {"panoptic", "segm", "sem_seg"} <= set(results)
    assert 0 <= results["panoptic"]["PQ"] <= 100


def test_true_masks_with_true_scores_are_perfect(panoptic_world, tmp_path):
    """With alpha = beta = 0 the ground truth names itself: PQ is 100; CLIP's names are not all right."""
    truth = "model.generator=${ground_truth}"
    perfect = evaluate("panoptic.py", tmp_path / "a", truth, "model.alpha=0", "model.beta=0")
    assert perfect["panoptic"]["PQ"] == pytest.approx(100)
    assert perfect["sem_seg"]["mIoU"] == pytest.approx(100)
    assert perfect["segm"]["AP"] == pytest.approx(100, abs=0.1)
    by_clip = evaluate("panoptic.py", tmp_path / "b", truth, "model.alpha=1", "model.beta=1")
    assert by_clip["panoptic"]["PQ"] < 50


def test_only_the_tower_that_names_the_masks_is_varied(panoptic_world, tmp_path):
    generator = build(load_config(FOLDER / "panoptic_masks.py", ["train.device=cpu"]), "model")
    torch.save({"model": generator.state_dict()}, tmp_path / "checkpoint.pth")
    overrides = [f"model.generator.checkpoint={tmp_path / 'checkpoint.pth'}", "clip.pretrained=null"]
    model = build(load_config(FOLDER / "panoptic.py", [*overrides, "train.device=cpu"]), "model")
    shipped = content_hash(generator.backbone.tower.state_dict())
    assert content_hash(model.generator.backbone.tower.state_dict()) == shipped
    assert content_hash(model.embedder.tower.state_dict()) != shipped
    assert model.vocabulary.names == generator.vocabulary.names
    assert torch.equal(model.vocabulary.is_base, generator.vocabulary.is_base)
    assert int((~model.vocabulary.is_base).sum()) == 34
