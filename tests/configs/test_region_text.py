"""The configs of region-text training: all is CLIPSelf's but the model's loss and its regions."""

import json
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from clipself_d2.engine.config import load_config

FOLDER = Path(__file__).parents[2] / "configs/distillation"
LARGE = ["clip.name=EVA02-L-14-336", "clip.pretrained=merged2b_s6b_b61k", "model.student_size=896", "model.alpha=0.95"]
MODELS = {"eva02_b16": [], "eva02_l14_336": LARGE}


@pytest.mark.parametrize("model", MODELS)
def test_values_are_clipselfs(model):
    ours = load_config(FOLDER / "region_text_eva02_b16_coco.py", MODELS[model])
    clipself = load_config(FOLDER / f"clipself_{model}_coco_patches.py")
    for key in ("tower", "student_size", "alpha"):
        assert ours.model[key] == clipself.model[key]
    assert not {"teacher_size", "trainable_blocks"} & set(ours.model)
    assert not {"teacher_size", "trainable_blocks"} & set(clipself.model)
    assert ours.model.num_sampled == 100
    assert ours.model.text == ours.dataloader.evaluator.text
    assert ours.model.nouns.endswith("coco/coco_region_text.json")
    assert ours.dataloader.train.mapper.regions.max_regions == 20
    for part in ("clip", "optimizer", "lr_multiplier", "export"):
        assert ours[part] == clipself[part]
    assert OmegaConf.masked_copy(ours.dataloader, ["test"]) == OmegaConf.masked_copy(clipself.dataloader, ["test"])
    assert {**ours.train, "output_dir": ""} == {**clipself.train, "output_dir": ""}


def test_pairs_are_read_from_the_json_named(tmp_path):
    file = tmp_path / "pairs.json"
    pair = {"image_id": 3, "category_id": 7, "bbox": [1, 2, 30, 40]}
    file.write_text(json.dumps({"annotations": [pair], "categories": [{"id": 7, "name": "cat"}]}))
    override = f"dataloader.train.mapper.regions.json_file={file}"
    cfg = load_config(FOLDER / "region_text_eva02_b16_coco.py", [override])
    assert instantiate(cfg.dataloader.train.mapper).regions.names == ["cat"]
    assert cfg.model.nouns == str(file)
