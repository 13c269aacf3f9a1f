"""The configs of CAT-Seg: each tower's values, and the overrides that make a row."""

from pathlib import Path

import open_clip
import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from clipself_d2.data import SemanticMapper
from clipself_d2.engine.config import load_config, target, train_settings
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.semantic import CATSeg

FOLDER = Path(__file__).parents[2] / "configs/semantic"
SIZES = {
    "b16": (384, [3, 7], 768, 512),
    "l14_336": (336, [7, 15], 1024, 768),
}  # input, blocks, their channels, embedding
MODELS = {  # -> file, overrides, open_clip's name and tag
    "openai_b16": ("b16", [], "ViT-B-16-quickgelu", "openai"),
    "openai_l14_336": ("l14_336", [], "ViT-L-14-336-quickgelu", "openai"),
    "eva02_b16": ("b16", ["clip.name=EVA02-B-16"], "EVA02-B-16", "merged2b_s8b_b131k"),
    "eva02_l14_336": ("l14_336", ["clip.name=EVA02-L-14-336"], "EVA02-L-14-336", "merged2b_s6b_b61k"),
}


def path(size: str) -> Path:
    return FOLDER / f"cat_seg_openai_{size}_coco_stuff.py"


def test_there_is_one_file_per_size():
    assert sorted(FOLDER.glob("cat_seg*.py")) == sorted(map(path, SIZES))


@pytest.mark.parametrize("tower", MODELS)
def test_values_are_those_of_its_name(tower):
    file, overrides, name, tag = MODELS[tower]
    size, blocks, block_dim, embed_dim = SIZES[file]
    cfg = load_config(path(file), [*overrides, f"clip.pretrained={tag}"])
    model = cfg.model
    assert target(model) is CATSeg
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    assert open_clip.get_model_config(name)["embed_dim"] == embed_dim
    assert (model.size, list(model.blocks), model.window) == (size, blocks, 384)
    assert (model.decoder.block_dim, model.aggregator.embed_dim) == (block_dim, embed_dim)
    assert model.decoder.channels == model.aggregator.channels == 128
    for node in (cfg.clip, model.tower, model.vocabulary.text.tower.module, model.test_vocabulary.text.tower.module):
        assert (node.name, node.pretrained) == (name, tag)
    assert cfg.dataloader.train.dataset == model.vocabulary.dataset == "coco_stuff_171_train_sem_seg"
    test = {cfg.dataloader.test.dataset, model.test_vocabulary.dataset, cfg.dataloader.evaluator.dataset_name}
    assert test == {"ade20k_150_val_sem_seg"}
    assert target(cfg.dataloader.train.mapper) is SemanticMapper and cfg.dataloader.train.mapper.size == 384
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr, train_settings(cfg).max_iter) == (4, 2e-4, 80_000)
    assert OmegaConf.to_container(cfg.optimizer.params.lr_factors) == {"trained_tower": 0.01}
    assert train_settings(cfg).clip_grad_norm == 0.01
    multiplier = instantiate(cfg.lr_multiplier)
    assert [multiplier(t) for t in (0, 0.5)] == pytest.approx([1, 0.5])


@pytest.mark.parametrize("dataset", ["ade20k_847_val_sem_seg", "pascal_context_59_val_sem_seg"])
def test_one_override_names_another_data_set(dataset, tmp_path):
    overrides = [f"dataloader.test.dataset={dataset}", f"train.output_dir={tmp_path}"]
    cfg = load_config(path("b16"), overrides)
    assert cfg.model.test_vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == dataset
    evaluator = instantiate(cfg.dataloader.evaluator)
    assert isinstance(evaluator, OpenVocabularyPanopticEvaluator)
