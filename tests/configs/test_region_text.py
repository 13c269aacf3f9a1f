"""The configs of region-text training: all is CLIPSelf's but the model's loss and its regions."""

import ast
import json
import re
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from clipself_d2.engine.config import load_config, train_settings

FOLDER = Path(__file__).parents[2] / "configs/distillation"
MODELS = {"eva02_b16": 12, "eva02_l14_336": 24}


def both(model):
    return (
        load_config(FOLDER / f"{name}.py") for name in (f"region_text_{model}_coco", f"clipself_{model}_coco_patches")
    )


@pytest.mark.parametrize("model", MODELS)
def test_values_are_clipselfs(model):
    ours, clipself = both(model)
    for key in ("tower", "student_size", "trainable_blocks", "alpha"):
        assert ours.model[key] == clipself.model[key]
    assert ours.model.teacher_size == clipself.model.teacher_size
    assert ours.model.trainable_blocks == MODELS[model]
    assert ours.model.num_sampled == 100
    assert ours.model.text == ours.dataloader.evaluator.text
    assert ours.model.nouns.endswith("coco/coco_region_text.json")
    assert ours.dataloader.train.mapper.regions.max_regions == 20
    for part in ("clip", "optimizer", "lr_multiplier", "export"):
        assert ours[part] == clipself[part]
    assert OmegaConf.masked_copy(ours.dataloader, ["test"]) == OmegaConf.masked_copy(clipself.dataloader, ["test"])
    assert {**ours.train, "output_dir": ""} == {**clipself.train, "output_dir": ""}
    assert ours.train.output_dir == f"output/region_text_{model}_coco"
    train_settings(ours)


@pytest.mark.parametrize("model", MODELS)
def test_the_docstring_has_a_table(model):
    doc = ast.get_docstring(ast.parse((FOLDER / f"region_text_{model}_coco.py").read_text()))
    assert re.search(r"\| value +\| paper +\| released code +\| here +\|", doc)
    assert len({len(line) for line in doc.splitlines() if line.startswith("|")}) == 1


def test_pairs_are_read_from_the_json_named(tmp_path):
    file = tmp_path / "pairs.json"
    pair = {"image_id": 3, "category_id": 7, "bbox": [1, 2, 30, 40]}
    file.write_text(json.dumps({"annotations": [pair], "categories": [{"id": 7, "name": "cat"}]}))
    override = f"dataloader.train.mapper.regions.json_file={file}"
    cfg = load_config(FOLDER / "region_text_eva02_b16_coco.py", [override])
    assert instantiate(cfg.dataloader.train.mapper).regions.names == ["cat"]
    assert cfg.model.nouns == str(file)
