"""A plain YAML project of Detectron2 on our backbone: the config of docs/detection.md on a tiny tower."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Instances

from clipself_d2.backbones import CLIPBackbone, add_clip_backbone_config
from clipself_d2.backbones.pyramid import SimplePyramid
from clipself_d2.errors import InputError
from tests.detection.tiny import CONFIGS, scene

PAGE = (Path(__file__).parents[2] / "docs/detection.md").read_text()
SECTION = PAGE[PAGE.index("\n## In your own Detectron2 project\n") :]
YAML, CODE = (re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)[1] for language in ("yaml", "python"))


@pytest.fixture
def config(tmp_path):
    """The page's config, read as its code reads it, then made small."""
    (tmp_path / "config.yaml").write_text(YAML)
    names = {}
    exec(CODE.replace("config.yaml", str(tmp_path / "config.yaml")).replace("DefaultTrainer(cfg)", "None"), names)
    cfg = names["cfg"]
    (tmp_path / "tower.json").write_text(json.dumps(CONFIGS["tiny-vit-8"]))
    clip = {"NAME": str(tmp_path / "tower.json"), "PRETRAINED": None, "BLOCKS": [0, 1, 2, 2], "NORM": "BN"}
    for key, value in {**clip, "CHANNELS": 16, "SQUARE_SIZE": 64}.items():
        cfg.MODEL.CLIP[key] = value
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 5, 0.0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    return cfg


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def test_a_plain_project_trains_and_predicts(config, storage):
    model = build(config)
    assert type(model).__name__ == "GeneralizedRCNN" and isinstance(model.backbone, CLIPBackbone)
    optimizer = build_optimizer(config, model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses = model.train()([scene(0, masks=False), scene(1, size=(64, 50), masks=False)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"backbone.pyramid.laterals.0.weight", "proposal_generator.rpn_head.conv.weight"} <= moved
    assert not any("visual" in name for name in before)
    with torch.no_grad():
        (found,) = model.eval()([{"image": scene(0)["image"], "height": 96, "width": 120}])
    assert isinstance(found["instances"], Instances) and found["instances"].image_size == (96, 120)
    assert len(found["instances"]) > 0 and torch.isfinite(found["instances"].pred_boxes.tensor).all()


def test_images_are_padded_to_squares(config):
    model = build(config).eval()
    batches = []
    model.backbone.register_forward_pre_hook(lambda _, args: batches.append(tuple(args[0].shape)))
    with torch.no_grad():
        model([scene(0), scene(1, size=(20, 30))])
        model.backbone.square_size = 0
        model([scene(0), scene(1, size=(20, 30))])
    assert batches == [(2, 3, 64, 64), (2, 3, 48, 64)]


def test_checkpoints_by_detectron2s_own_checkpointer(config, tmp_path):
    model = build(config).eval()
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    saved = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert "backbone.tower_fingerprint" in saved and not any("visual" in name for name in saved)
    other = build(config).eval()  # the same tower, for it has the same seed
    torch.nn.init.zeros_(other.backbone.pyramid.laterals[0].weight)
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    image = [{"image": scene(0)["image"]}]
    with torch.no_grad():
        assert torch.equal(model(image)[0]["instances"].scores, other(image)[0]["instances"].scores)
    with pytest.raises(InputError, match="another image tower"):
        DetectionCheckpointer(build(config, seed=1)).load(str(tmp_path / "model.pth"))


def test_the_keys_reach_the_constructors(config):
    clip = config.MODEL.CLIP
    clip.PYRAMID, clip.BLOCKS, clip.TRAINABLE, clip.SCALES, clip.MODE = "simple", [2], True, [2.0, 1.0], "full"
    backbone = build_backbone(config)
    assert isinstance(backbone.pyramid, SimplePyramid) and backbone.pyramid.channels == 16
    assert (backbone.blocks, backbone.trainable, backbone.dense_mode, backbone.strides) == (
        [2],
        True,
        "full",
        [4, 8, 16],
    )
    assert backbone.padding_constraints == {"square_size": 64}


def test_the_defaults_are_eva_b16s():
    cfg = get_cfg()
    add_clip_backbone_config(cfg)
    clip = cfg.MODEL.CLIP
    assert (clip.NAME, clip.PRETRAINED) == ("EVA02-B-16", "merged2b_s8b_b131k")
    assert (clip.BLOCKS, clip.SCALES, clip.CHANNELS, clip.NORM) == ([3, 5, 7, 11], [4.0, 2.0, 1.0, 0.5], 256, "SyncBN")
    assert set(yaml.safe_load(YAML)["MODEL"]["CLIP"]) < set(clip)


def test_bad_keys(config):
    config.INPUT.FORMAT = "BGR"
    with pytest.raises(InputError, match=r"INPUT\.FORMAT='BGR': CLIP reads RGB"):
        build_model(config)
    config.INPUT.FORMAT = "RGB"
    config.MODEL.CLIP.PYRAMID = "bifpn"
    with pytest.raises(InputError, match=r"MODEL\.CLIP\.PYRAMID='bifpn': use one of fpn, simple"):
        build_model(config)
    config.MODEL.CLIP.PYRAMID, config.MODEL.CLIP.BLOCKS = "fpn", [11]
    with pytest.raises(InputError, match=r"blocks \[11\] do not exist"):
        build_model(config)
