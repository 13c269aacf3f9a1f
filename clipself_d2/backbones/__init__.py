"""A CLIP image tower as a Detectron2 backbone, for detectors and mask generators alike."""

from clipself_d2.backbones.clip_backbone import CLIPBackbone
from clipself_d2.backbones.pyramid import FPNPyramid, Pyramid, SimplePyramid
from clipself_d2.backbones.registry import add_clip_backbone_config, build_clip_backbone

__all__ = [
    "CLIPBackbone",
    "FPNPyramid",
    "Pyramid",
    "SimplePyramid",
    "add_clip_backbone_config",
    "build_clip_backbone",
]
