"""The backbone for Detectron2's YAML configs: ``MODEL.BACKBONE.NAME: build_clip_backbone``."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from clipself_d2.backbones.clip_backbone import CLIPBackbone
from clipself_d2.backbones.pyramid import FPNPyramid, SimplePyramid
from clipself_d2.clip import build_image_tower
from clipself_d2.errors import InputError

PYRAMIDS = {"fpn": FPNPyramid, "simple": SimplePyramid}


def add_clip_backbone_config(cfg: CfgNode) -> None:
    """Add ``MODEL.CLIP``, with the values of EVA-02-CLIP B/16, to a config of Detectron2.

    Args:
        cfg: from `detectron2.config.get_cfg`; changed in place.
    """
    cfg.MODEL.CLIP = CfgNode()
    # The name of a CLIP, and a tag or a file of weights, such as a tower.safetensors; see `build_image_tower`.
    cfg.MODEL.CLIP.NAME = "EVA02-B-16"
    cfg.MODEL.CLIP.PRETRAINED = "merged2b_s8b_b131k"
    # See `CLIPBackbone`.
    cfg.MODEL.CLIP.BLOCKS = [3, 5, 7, 11]
    cfg.MODEL.CLIP.TRAINABLE = False
    cfg.MODEL.CLIP.MODE = "no_attn"
    cfg.MODEL.CLIP.SQUARE_SIZE = 0
    # "fpn" or "simple", and the arguments of `FPNPyramid` or `SimplePyramid`.
    cfg.MODEL.CLIP.PYRAMID = "fpn"
    cfg.MODEL.CLIP.SCALES = [4.0, 2.0, 1.0, 0.5]
    cfg.MODEL.CLIP.CHANNELS = 256
    cfg.MODEL.CLIP.NORM = "SyncBN"


@BACKBONE_REGISTRY.register()
def build_clip_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CLIPBackbone:
    """Build the backbone that ``MODEL.CLIP`` describes; its levels are ``p2``, ``p3``, ..

    Args:
        cfg: with the node of `add_clip_backbone_config`.
        input_shape: of the images: three channels, RGB.

    Raises:
        InputError: images that are not RGB, an unknown pyramid; see `build_image_tower` and `CLIPBackbone` too.
    """
    clip = cfg.MODEL.CLIP
    if input_shape.channels != 3 or cfg.INPUT.FORMAT != "RGB":
        raise InputError(f"INPUT.FORMAT={cfg.INPUT.FORMAT!r}: CLIP reads RGB: set INPUT.FORMAT 'RGB'")
    if clip.PYRAMID not in PYRAMIDS:
        raise InputError(f"MODEL.CLIP.PYRAMID={clip.PYRAMID!r}: use one of {', '.join(PYRAMIDS)}")
    tower = build_image_tower(clip.NAME, clip.PRETRAINED)
    pyramid = PYRAMIDS[clip.PYRAMID](tower.block_dim, clip.SCALES, clip.CHANNELS, clip.NORM)
    return CLIPBackbone(tower, clip.BLOCKS, pyramid, clip.TRAINABLE, clip.MODE, clip.SQUARE_SIZE)
