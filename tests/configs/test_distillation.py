"""Every config of CLIPSelf: that it fits the code, says what its file's name says, and explains its values."""

import ast
import json
import math
import re
from pathlib import Path

import open_clip
import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from clipself_d2.engine.config import load_config, train_settings

FOLDER = Path(__file__).parents[2] / "configs/distillation"
MODELS = {  # model -> open_clip's name and tag, student size, teacher size, trainable blocks, alpha
    "eva02_b16": ("EVA02-B-16", "merged2b_s8b_b131k", 1024, 224, 12, 0.7),
    "eva02_l14_336": ("EVA02-L-14-336", "merged2b_s6b_b61k", 896, 336, 24, 0.95),
    "openai_b16": ("ViT-B-16-quickgelu", "openai", 1024, 224, 12, 0.7),
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 672, 336, 12, 0.95),
}
ROWS = [
    (model, dataset, regions)
    for model in MODELS
    for dataset in ("coco", "lvis")
    for regions in ("patches", "proposals")
]


def path(model: str, dataset: str, regions: str) -> Path:
    return FOLDER / f"clipself_{model}_{dataset}_{regions}.py"


def test_the_folder_holds_these_and_no_others():
    assert sorted(FOLDER.glob("clipself_*.py")) == sorted(path(*row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_values_are_those_of_its_name(row):
    model, dataset, regions = row
    cfg = load_config(path(*row))
    name, tag, student, teacher, blocks, alpha = MODELS[model]
    assert (cfg.clip.name, cfg.clip.pretrained) == (name, tag)
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    for node in (cfg.model.tower, cfg.export, cfg.dataloader.evaluator.text.tower.module):
        assert (node.name, node.pretrained) == (name, tag)
    assert (cfg.model.student_size, cfg.model.teacher_size) == (student, teacher)
    assert (cfg.model.trainable_blocks, cfg.model.alpha) == (blocks, alpha)
    vision = open_clip.get_model_config(name)["vision_cfg"]
    patch = vision.get("patch_size") or int(re.search(r"patch(\d+)", vision["timm_model_name"])[1])
    assert student % patch == 0
    assert teacher == vision["image_size"]
    assert cfg.dataloader.train.dataset == {"coco": "coco_2017_train_images", "lvis": "lvis_v1_train_images"}[dataset]
    # 6 epochs of batches of 2 on each of 8 GPUs; the released code's sampler fills up the last GPU's share.
    images = {"coco": 118_287, "lvis": 100_170}[dataset]
    assert cfg.train.max_iter == 6 * (math.ceil(images / 8) // 2)
    assert cfg.dataloader.train.total_batch_size == 16
    sampler = OmegaConf.to_container(cfg.dataloader.train.mapper.regions)
    if regions == "patches":
        assert (sampler["max_split"], sampler["max_regions"]) == (6, 20)
    else:
        assert (sampler["min_size"], sampler["max_size"], sampler["crop_scale"]) == (8, 1024, 1.5)
        assert cfg.dataloader.train.mapper.regions.json_file.endswith(f"{dataset}/{dataset}_proposals.json")
    assert cfg.train.output_dir == f"output/{path(*row).stem}"
    train_settings(cfg)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_the_docstring_has_a_table_and_the_file_is_short(row):
    text = path(*row).read_text()
    doc = ast.get_docstring(ast.parse(text))
    assert re.search(r"\| value +\| paper +\| released code +\| here +\|", doc)
    table = [line for line in doc.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len({len(line) for line in table}) == 1
    assert len(text.splitlines()) <= 45


def test_the_copy_of_a_run_builds_the_same(tmp_path):
    cfg = load_config(path("eva02_b16", "lvis", "patches"), ["train.max_iter=7", "lr_multiplier.warmup_iters=2"])
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
    override = f"dataloader.train.mapper.regions.json_file={file}"
    cfg = load_config(path("openai_b16", "lvis", "proposals"), [override])
    sampler = instantiate(cfg.dataloader.train.mapper.regions)
    assert sampler.proposals[3].tolist() == [[1, 2, 31, 42]]
