"""The configs of CLIPSelf: each tower's values, and the overrides that make a row of proposals or of LVIS."""

import json
import math
from pathlib import Path

import open_clip
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from clipself_d2.engine.config import load_config, target
from clipself_d2.regions import ProposalRegions

FOLDER = Path(__file__).parents[2] / "configs/distillation"
MODELS = {  # model -> open_clip's name and tag, student size, trainable blocks, alpha, AdamW's second beta
    "eva02_b16": ("EVA02-B-16", "merged2b_s8b_b131k", 1024, None, 0.7, 0.999),
    "eva02_l14_336": ("EVA02-L-14-336", "merged2b_s6b_b61k", 896, None, 0.95, 0.999),
    "openai_b16": ("ViT-B-16-quickgelu", "openai", 1024, None, 0.7, 0.98),
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 672, 12, 0.95, 0.98),
}
LVIS = ["dataloader.train.dataset=lvis_v1_train_images", "train.max_iter=37566", "train.eval_period=6261"]
PROPOSALS = "dataloader.train.mapper.regions=${proposals}"


def path(model: str) -> Path:
    return FOLDER / f"clipself_{model}_coco_patches.py"


def steps(images: int) -> int:
    """6 epochs of batches of 2 on each of 8 GPUs; the released code's sampler fills up the last GPU's share."""
    return 6 * (math.ceil(images / 8) // 2)


def test_there_is_one_file_per_tower():
    assert sorted(FOLDER.glob("clipself_*.py")) == sorted(map(path, MODELS))


@pytest.mark.parametrize("model", MODELS)
def test_values_are_those_of_its_name(model):
    cfg = load_config(path(model))
    name, tag, student, blocks, alpha, beta = MODELS[model]
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    for node in (cfg.clip, cfg.model.tower, cfg.export, cfg.dataloader.evaluator.text.tower.module):
        assert (node.name, node.pretrained) == (name, tag)
    assert (cfg.model.student_size, cfg.model.alpha) == (student, alpha)
    assert student % (14 if "l14" in model else 16) == 0
    # None is the tower's native size, and all of its blocks.
    assert (cfg.model.get("teacher_size"), cfg.model.get("trainable_blocks")) == (None, blocks)
    assert cfg.dataloader.train.dataset == "coco_2017_train_images"
    assert (cfg.train.max_iter, cfg.dataloader.train.total_batch_size) == (steps(118_287), 16)
    assert (cfg.optimizer.lr, cfg.optimizer.params.weight_decay) == (1e-5, 0.1)
    assert list(cfg.optimizer.betas) == [0.9, beta]
    regions = cfg.dataloader.train.mapper.regions
    assert (regions.max_split, regions.rule, regions.max_regions) == (6, "released", 20)


@pytest.mark.parametrize("model", MODELS)
def test_lvis_and_proposals_are_overrides(model):
    cfg = load_config(path(model), [*LVIS, PROPOSALS])
    assert cfg.dataloader.train.dataset == "lvis_v1_train_images"
    assert (cfg.train.max_iter, cfg.train.eval_period) == (steps(100_170), steps(100_170) // 6)
    regions = cfg.dataloader.train.mapper.regions
    assert target(regions) is ProposalRegions
    assert (regions.min_size, regions.max_size, regions.crop_scale, regions.max_regions) == (8, 1024, 1.5, 20)
    assert regions.json_file.endswith("coco/coco_proposals.json")


def test_the_copy_of_a_run_builds_the_same(tmp_path):
    cfg = load_config(path("eva02_b16"), ["train.max_iter=7", "lr_multiplier.warmup_iters=2"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = load_config(tmp_path / "config.yaml")
    multiplier = instantiate(again.lr_multiplier)
    assert [multiplier(step / 7) for step in range(3)] == pytest.approx([0.5, 1.0, 1.0])
    assert instantiate(again.dataloader.train.mapper).regions.max_split == 6


def test_proposals_are_read_from_the_json_named(tmp_path):
    file = tmp_path / "boxes.json"
    annotations = [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}]
    images = [{"id": 3, "file_name": "3.jpg", "height": 100, "width": 100}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    cfg = load_config(path("openai_b16"), [PROPOSALS, f"proposals.json_file={file}"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    for each in (cfg, load_config(tmp_path / "config.yaml")):
        sampler = instantiate(each.dataloader.train.mapper).regions
        assert sampler.proposals[3].tolist() == [[1, 2, 31, 42]]


SUCCESSORS = {  # correlation -> dense mode, weight, what is correlated, temperature
    "declip": ("declip", 0.1, "queries", None),
    "denserc": ("values", 0.025, "dense", None),
    "spatial": ("no_attn", 0.1, "dense", 0.1),
}


@pytest.mark.parametrize("name", SUCCESSORS)
def test_successors_are_overrides(name):
    mode, weight, of, temperature = SUCCESSORS[name]
    overrides = [f"model.correlation=${{correlations.{name}}}", f"model.dense_mode={mode}"]
    guide = load_config(path("eva02_b16"), overrides).model.correlation.guide
    if name == "spatial":
        assert guide.tower.pretrained == "merged2b_s8b_b131k"
    else:
        assert (guide.name, guide.size) == ("vit_base_patch14_dinov2.lvd142m", 560)
    cfg = load_config(FOLDER.parent / "miniature/clipself_patches.py", overrides)
    model = instantiate(cfg.model)
    correlation = model.correlation
    assert (correlation.weight, correlation.of, correlation.temperature) == (weight, of, temperature)
    assert (model.dense_mode, model.guide.block) == (mode, None if name == "spatial" else 3)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(model.guide.tower.parameters(), model.teacher.parameters(), strict=True)
    )
