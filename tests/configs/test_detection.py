"""Every config of F-ViT: that it fits the code, says what its file's name says, and explains its values."""

import math
from pathlib import Path

import open_clip
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from clipself_d2.backbones import FPNPyramid, SimplePyramid
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.detection import FViT
from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.config import load_config, target, train_settings
from clipself_d2.evaluation import OpenVocabularyCOCOEvaluator, OpenVocabularyLVISEvaluator, TransferEvaluator
from clipself_d2.vocabulary import Vocabulary

FOLDER = Path(__file__).parents[2] / "configs/detection"
# open_clip's name and tag; width, patch and blocks of the tower; length of the embeddings; input size by data set.
MODELS = {
    "eva02_b16": ("EVA02-B-16", "merged2b_s8b_b131k", 768, 16, [3, 5, 7, 11], 512, {"ovcoco": 640, "ovlvis": 1024}),
    "eva02_l14_336": (
        "EVA02-L-14-336",
        "merged2b_s6b_b61k",
        1024,
        14,
        [6, 10, 14, 23],
        768,
        {"ovcoco": 896, "ovlvis": 896},
    ),
    "openai_b16": ("ViT-B-16-quickgelu", "openai", 768, 16, [3, 5, 7, 11], 512, {"ovcoco": 640, "ovlvis": 1024}),
    "openai_l14_336": ("ViT-L-14-336-quickgelu", "openai", 1024, 14, [6, 10, 14, 23], 768, {"ovcoco": 672}),
}
TRAINED = [(model, data) for model, values in MODELS.items() for data in values[-1]]
TOWER = "clip.pretrained=output/clipself_eva02_b16_coco_patches/tower.safetensors"
DESIGNS = {
    "simple pyramid": ["model.backbone.blocks=[11]", "model.backbone.pyramid=${simple_pyramid}"],
    "last block": ["model.backbone.blocks=[11,11,11,11]"],
    "lr x 0.01": ["model.backbone.trainable=true", "optimizer.params.lr_factors={backbone.trained_tower: 0.01}"],
    "lr x 0.1": ["model.backbone.trainable=true", "optimizer.params.lr_factors={backbone.trained_tower: 0.1}"],
}
OTHERS = ["model.roi_heads.alpha=0.3", "model.roi_heads.beta=0.3"]
TRANSFERS = {"coco_2017_val": [], "objects365_v1_val": OTHERS, "voc_2007_test": OTHERS}
# alpha, beta and CLIP's temperature; OpenAI's are another code's (CLIM), which has no such temperature.
FUSION = {
    ("eva02_b16", "ovcoco"): (0.1, 0.8, 75),
    ("eva02_l14_336", "ovcoco"): (0.1, 0.8, 75),
    ("openai_b16", "ovcoco"): (0.1, 0.8, 75),
    ("openai_l14_336", "ovcoco"): (0.1, 0.8, 75),
    ("eva02_b16", "ovlvis"): (0.1, 0.6, 50),
    ("eva02_l14_336", "ovlvis"): (0.1, 0.4, 50),
    ("openai_b16", "ovlvis"): (0.35, 0.65, 50),
}


def path(model: str, data: str) -> Path:
    return FOLDER / f"fvit_{model}_{data}.py"


TRANSFER = FOLDER / "fvit_eva02_l14_336_transfer.py"
TRANSFER_B = FOLDER / "fvit_eva02_b16_transfer.py"


def test_the_folder_holds_these_and_no_others():
    assert sorted(FOLDER.glob("fvit_*.py")) == sorted([*(path(*row) for row in TRAINED), TRANSFER, TRANSFER_B])


@pytest.mark.parametrize("row", TRAINED, ids="-".join)
def test_the_tower_and_its_sizes(row):
    model, data = row
    cfg = load_config(path(*row))
    name, tag, width, stride, blocks, embed_dim, sizes = MODELS[model]
    assert (cfg.clip.name, cfg.clip.pretrained) == (name, tag)
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    for node in (cfg.model.backbone.tower, cfg.model.vocabulary.text.tower.module):
        assert (node.name, node.pretrained) == (name, tag)
    assert open_clip.get_model_config(name)["embed_dim"] == embed_dim
    assert (cfg.model.size, cfg.model.size % stride) == (sizes[data], 0)
    assert (cfg.model.backbone.blocks, cfg.model.backbone.trainable) == (blocks, False)
    pyramid = cfg.model.backbone.pyramid
    assert (pyramid.in_dim, pyramid.channels, pyramid.norm) == (width, 256, "SyncBN")
    assert [stride / scale for scale in pyramid.scales] == cfg.model.rpn.strides[:-1]
    assert cfg.model.roi_heads.strides == cfg.model.rpn.strides
    assert cfg.model.rpn.strides[-1] == 2 * cfg.model.rpn.strides[-2]
    assert cfg.model.roi_heads.box_head.embed_dim == embed_dim
    is_openai = model.startswith("openai")
    assert cfg.model.pixel_stats == ("clip" if is_openai else "imagenet")
    assert cfg.model.roi_heads.classifier.get("learned_background") == (embed_dim if is_openai else None)


@pytest.mark.parametrize("row", TRAINED, ids="-".join)
def test_the_heads_are_the_released_ones(row):
    model, data = row
    cfg = load_config(path(*row))
    rpn, heads = cfg.model.rpn, cfg.model.roi_heads
    assert (rpn.channels, rpn.anchor_scale, rpn.aspect_ratios) == (256, 8, [0.5, 1, 2])
    assert (rpn.batch_size_per_image, rpn.nms_thresh) == (256, 0.7)
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == ([2000, 2000], [1000, 1000])
    assert rpn.norm == {"ovcoco": "", "ovlvis": "SyncBN"}[data]
    assert (heads.box_head.channels, heads.box_head.num_convs, heads.box_head.norm) == (256, 4, "SyncBN")
    assert (heads.batch_size_per_image, heads.positive_fraction, heads.canonical_size) == (512, 0.25, 56)
    assert (heads.classifier.temperature, heads.classifier.get("fixed_temperature")) == (50, None)
    assert (heads.fusion, heads.alpha, heads.beta, heads.clip_temperature) == ("fvit", *FUSION[model, data])
    kept = (heads.background_weight, heads.score_thresh, heads.nms_thresh, heads.detections_per_image)
    assert kept == {"ovcoco": (0.6, 0.01, 0.4, 100), "ovlvis": (0.9, 1e-4, 0.5, 300)}[data]
    if data == "ovcoco":
        assert heads.mask_head is None
    else:
        assert target(heads.mask_head) is MaskRCNNConvUpsampleHead
        assert (heads.mask_head.num_classes, heads.mask_head.conv_dims, heads.mask_head.conv_norm) == (
            1,
            [256] * 5,
            "SyncBN",
        )
        assert heads.mask_resolution == 14


@pytest.mark.parametrize("row", TRAINED, ids="-".join)
def test_the_data_and_the_schedule(row):
    model, data = row
    cfg = load_config(path(*row))
    train, mapper = cfg.dataloader.train, cfg.dataloader.train.mapper
    assert (mapper.size, mapper.scale_range, mapper.flip) == (cfg.model.size, [0.1, 2.0], 0.5)
    assert mapper.masks is (data == "ovlvis")
    sets = {"ovcoco": ("ov_coco_train", "ov_coco_val"), "ovlvis": ("ov_lvis_train", "lvis_v1_val")}[data]
    assert (train.dataset, cfg.dataloader.test.dataset) == sets
    assert cfg.model.vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == sets[1]
    evaluator = {"ovcoco": OpenVocabularyCOCOEvaluator, "ovlvis": OpenVocabularyLVISEvaluator}[data]
    assert target(cfg.dataloader.evaluator) is evaluator
    clim = (model, data) == ("openai_b16", "ovlvis")
    batch, lr, decay = (128, 4e-4, 0.05) if clim else (64, 1e-4, 0.1)
    assert (train.total_batch_size, cfg.optimizer.lr, cfg.optimizer.params.weight_decay) == (batch, lr, decay)
    assert (list(cfg.optimizer.betas), cfg.optimizer.eps) == ([0.9, 0.999], 1e-8)
    assert cfg.train.clip_grad_norm == 1.0
    epochs, images = {"ovcoco": (3, 107_761), "ovlvis": (48, 100_170)}[data]
    epoch = math.ceil(images / batch)
    assert cfg.train.max_iter == epochs * epoch
    assert cfg.train.eval_period == {"ovcoco": epoch, "ovlvis": 12 * epoch}[data]
    rate = instantiate(cfg.lr_multiplier)

    def at(step: float) -> float:
        return rate(step / cfg.train.max_iter)

    assert at(0) == pytest.approx(0.001)
    assert at(125) == pytest.approx(0.5005, abs=1e-3)
    assert at(251) == 1
    expected = {"ovcoco": [1, 1, 1, 1], "ovlvis": [1, 0.1, 0.1, 0.01]}[data]
    assert [at(e * epoch + 1) for e in ((1, 2, 2.5, 2.9) if data == "ovcoco" else (31.9, 32, 43.9, 44))] == (
        pytest.approx(expected)
    )


def test_everything_trainable_decays():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    cfg = load_config(path("eva02_b16", "ovcoco"))
    cfg.optimizer.params.model = module
    [group] = instantiate(cfg.optimizer).param_groups
    assert (group["weight_decay"], group["lr"], len(group["params"])) == (0.1, 1e-4, 4)


def test_designs():
    cfg = {name: load_config(path("eva02_b16", "ovcoco"), [TOWER, *overrides]) for name, overrides in DESIGNS.items()}
    pyramids = {name: (target(each.model.backbone.pyramid), each.model.backbone.blocks) for name, each in cfg.items()}
    assert pyramids == {
        "simple pyramid": (SimplePyramid, [11]),
        "last block": (FPNPyramid, [11] * 4),
        "lr x 0.01": (FPNPyramid, [3, 5, 7, 11]),
        "lr x 0.1": (FPNPyramid, [3, 5, 7, 11]),
    }
    assert cfg["simple pyramid"].model.backbone.pyramid.norm == "LN"
    for name, factor in (("lr x 0.01", 0.01), ("lr x 0.1", 0.1)):
        assert cfg[name].model.backbone.trainable is True
        assert cfg[name].optimizer.params.lr_factors == {"backbone.trained_tower": factor}


@pytest.mark.parametrize("dataset", TRANSFERS)
def test_transfer(dataset):
    cfg = load_config(TRANSFER, [f"dataloader.test.dataset={dataset}", *TRANSFERS[dataset]])
    source = load_config(path("eva02_l14_336", "ovlvis"))
    assert cfg.model.vocabulary.dataset == cfg.dataloader.evaluator.dataset_name == dataset
    assert target(cfg.dataloader.evaluator) is TransferEvaluator
    assert "train" not in cfg.dataloader
    heads, alpha = cfg.model.roi_heads, 0.3 if TRANSFERS[dataset] else 0.2
    assert (heads.alpha, heads.beta, heads.clip_temperature) == (alpha, alpha, 120)
    assert heads.classifier.fixed_temperature == 50
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_image) == (1e-4, 0.5, 300)
    assert heads.mask_head is None
    assert (cfg.clip.name, cfg.model.size) == (source.clip.name, 896)
    assert cfg.clip.pretrained == "output/clipself_eva02_l14_336_lvis_patches/tower.safetensors"
    settings = train_settings(cfg)
    folder = f"{source.train.output_dir}_clipself_patches"  # as the command in its docstring names it
    assert f"train.output_dir={folder}" in path("eva02_l14_336", "ovlvis").read_text()
    assert settings.init_checkpoint == f"{folder}/checkpoint_{source.train.max_iter:07d}.pth"
    assert settings.init_without == ["roi_heads.mask_head."]


def words(dataset, embed_dim):
    """A vocabulary without a text tower; a third of the classes of an open-vocabulary data set is novel."""
    names = [f"{dataset} {i}" for i in range(6)]
    rows = torch.randn(7, embed_dim)
    return Vocabulary(names, rows[:-1], novel=names[::3] if "ov_" in dataset else (), background=rows[-1])


def build_model(cfg):
    vocabulary = {"_target_": words, "dataset": cfg.model.vocabulary.dataset, "embed_dim": cfg.shape.embed_dim}
    cfg.model.vocabulary = vocabulary
    return instantiate(cfg.model)


BUILT = [("eva02_b16", "ovcoco", ""), ("openai_b16", "ovlvis", "")]
BUILT += [("eva02_b16", "ovcoco", design) for design in ("simple pyramid", "last block", "lr x 0.01")]


@pytest.mark.parametrize(("model", "data", "design"), BUILT)
def test_it_builds_with_random_weights_asked_for_by_name(model, data, design):
    cfg = load_config(path(model, data), ["clip.pretrained=null", *DESIGNS.get(design, [])])
    detector = build_model(cfg)
    assert isinstance(detector, FViT)
    trained = sum("trained_tower" in name for name, p in detector.named_parameters() if p.requires_grad)
    assert bool(trained) is (design == "lr x 0.01")
    cfg.optimizer.params.model = detector
    slow = [group for group in instantiate(cfg.optimizer).param_groups if group["lr"] < 0.02 * cfg.optimizer.lr]
    assert sum(len(group["params"]) for group in slow) == trained
    assert (detector.roi_heads.mask_head is not None) is (data == "ovlvis")


def test_the_smaller_transfer_is_the_larger_on_another_tower():
    small, large, source = (load_config(file) for file in (TRANSFER_B, TRANSFER, path("eva02_b16", "ovlvis")))
    assert (small.clip.name, small.model.size, small.shape) == (source.clip.name, 1024, source.shape)
    for cfg in (small, large):
        cfg.train.update(init_checkpoint="", output_dir="")
    for key in ("dataloader", "train"):
        assert small[key] == large[key]
    assert small.model.roi_heads.alpha == large.model.roi_heads.alpha == 0.2


def test_a_detector_with_masks_is_transferred_to_one_without(tmp_path):
    """The heads are the configs', the tower is a smaller one."""
    models = []
    for file in (path("eva02_l14_336", "ovlvis"), TRANSFER):
        cfg = load_config(file, ["clip.name=ViT-B-32", "clip.pretrained=null", "model.size=96"])
        cfg.shape.update(blocks=[0, 1, 2, 3], block_dim=768, embed_dim=512, stride=32)
        cfg.shape.update(strides=[8, 16, 32, 64, 128])
        torch.manual_seed(0)
        models.append(build_model(cfg))
    source, model = models
    with torch.no_grad():
        source.rpn.rpn_head.objectness.bias.add_(1)
    Checkpointer(tmp_path, model=source).save(1)
    load_model(model, tmp_path / "checkpoint_0000001.pth", cfg.train.init_without)
    assert torch.equal(model.rpn.rpn_head.objectness.bias, source.rpn.rpn_head.objectness.bias)
    [result] = model.eval()([{"image": torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)}])
    assert not result["instances"].has("pred_masks")
    assert model.vocabulary.is_base.all()


def test_the_copy_of_a_run_loads(tmp_path):
    for overrides in DESIGNS["simple pyramid"], DESIGNS["lr x 0.1"]:
        cfg = load_config(path("eva02_b16", "ovcoco"), overrides)
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        again = load_config(tmp_path / "config.yaml")
        assert again.optimizer.params.lr_factors == cfg.optimizer.params.lr_factors
        assert target(again.model.backbone.pyramid) is target(cfg.model.backbone.pyramid)
        assert target(again.model.vocabulary) is dataset_vocabulary
    LazyConfig.save(load_config(TRANSFER), str(tmp_path / "config.yaml"))
    assert train_settings(load_config(tmp_path / "config.yaml")).init_without == ["roi_heads.mask_head."]
