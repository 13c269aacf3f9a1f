"""Every config of CAT-Seg: that it fits the code, says what its file's name says, and explains its values."""

import ast
import re

import open_clip
import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from clipself_d2.data import SemanticMapper
from clipself_d2.engine.config import load_config, target, train_settings
from clipself_d2.evaluation import OpenVocabularyPanopticEvaluator
from clipself_d2.reproduce.plan import ROOT
from clipself_d2.semantic import CATSeg

FOLDER = ROOT / "configs/semantic"
MODELS = {  # -> open_clip's name and tag, input size, blocks, channels of blocks, length of embeddings
    "openai_b16": ("ViT-B-16-quickgelu", "openai", 384, [3, 7], 768, 512),
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 336, [7, 15], 1024, 768),
    "eva02_b16": ("EVA02-B-16", "merged2b_s8b_b131k", 384, [3, 7], 768, 512),
    "eva02_l14_336": ("EVA02-L-14-336", "merged2b_s6b_b61k", 336, [7, 15], 1024, 768),
}
ROWS = [(model, end) for model in MODELS for end in ("", "_clipself_patches")]
PAPER = {"openai_b16": {"27.2", "8.4", "57.5"}, "openai_l14_336": {"31.5", "10.8", "62.0"}}  # Table 5, mIoU


def path(model, end):
    return FOLDER / f"cat_seg_{model}_coco_stuff{end}.py"


def test_there_are_these_and_no_others():
    assert sorted(FOLDER.glob("cat_seg*.py")) == sorted(path(*row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids="".join)
def test_values_are_those_of_its_name(row):
    name, tag, size, blocks, block_dim, embed_dim = MODELS[row[0]]
    cfg = load_config(path(*row))
    model = cfg.model
    assert target(model) is CATSeg
    distilled = f"output/clipself_{row[0]}_coco_patches/tower.safetensors"
    assert (cfg.clip.name, cfg.clip.pretrained) == (name, distilled if row[1] else tag)
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    assert (model.size, list(model.blocks), model.window, model.canvas) == (size, blocks, 384, 640)
    assert (model.decoder.block_dim, model.aggregator.embed_dim) == (block_dim, embed_dim)
    assert model.decoder.channels == model.aggregator.channels == 128
    for node in (model.tower, model.vocabulary.text.tower.module, model.test_vocabulary.text.tower.module):
        assert (node.name, node.pretrained) == (name, cfg.clip.pretrained)
    assert cfg.dataloader.train.dataset == model.vocabulary.dataset == "coco_2017_train_stuff_all_sem_seg"
    test = {cfg.dataloader.test.dataset, model.test_vocabulary.dataset, cfg.dataloader.evaluator.dataset_name}
    assert test == {"ade20k_150_val_sem_seg"}
    assert target(cfg.dataloader.train.mapper) is SemanticMapper and cfg.dataloader.train.mapper.size == 384
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr, train_settings(cfg).max_iter) == (4, 2e-4, 80_000)
    assert OmegaConf.to_container(cfg.optimizer.params.lr_factors) == {"trained_tower": 0.01}
    assert train_settings(cfg).clip_grad_norm == 0.01
    assert train_settings(cfg).output_dir == f"output/{path(*row).stem}"
    multiplier = instantiate(cfg.lr_multiplier)
    assert [multiplier(t) for t in (0, 0.5)] == pytest.approx([1, 0.5])


@pytest.mark.parametrize("row", ROWS, ids="".join)
def test_its_text_says_how_to_run_it(row):
    text = ast.get_docstring(ast.parse(path(*row).read_text()))
    assert f"--config-file configs/semantic/{path(*row).name}" in text
    assert (f"configs/distillation/clipself_{row[0]}_coco_patches.py" in text) == bool(row[1])
    if not row[1] and row[0] in PAPER:
        assert PAPER[row[0]] <= set(re.findall(r"\d+\.\d", text))


@pytest.mark.parametrize("dataset", ["ade20k_847_val_sem_seg", "pascal_context_59_val_sem_seg"])
def test_one_override_names_another_data_set(dataset, tmp_path):
    overrides = [f"dataloader.test.dataset={dataset}", f"train.output_dir={tmp_path}"]
    cfg = load_config(path("openai_b16", ""), overrides)
    assert cfg.model.test_vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == dataset
    evaluator = instantiate(cfg.dataloader.evaluator)
    assert isinstance(evaluator, OpenVocabularyPanopticEvaluator)
