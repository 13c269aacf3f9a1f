"""OV-Shapes: a small synthetic world with a small CLIP of its own, shipped with the package.

Importing it registers the model `OV-Shapes-ViT-8` with open_clip and the data sets `ov_shapes_*` with Detectron2; the
images are drawn when a data set is first loaded. The miniature shows effects and orderings, not the paper's values.
"""

from pathlib import Path

import open_clip

from clipself_d2.clip import build_image_tower
from clipself_d2.distillation import TowerGuide
from clipself_d2.miniature.captions import TEMPLATES, SceneCaptionMapper, caption_roles
from clipself_d2.miniature.contrastive import CLIPExport, ImageTextCLIP
from clipself_d2.miniature.registration import register_ov_shapes
from clipself_d2.miniature.world import CLASSES, STUFF, THINGS

MODEL = "OV-Shapes-ViT-8"
WEIGHTS = str(Path(__file__).parent / "ov_shapes_clip.safetensors")
"""The shipped CLIP, as `configs/miniature/clip.py` trains it."""

CLIPSELF_WEIGHTS = str(Path(__file__).parent / "ov_shapes_clipself.safetensors")
"""The same after CLIPSelf with proposals: the tower of the last row of table 3a."""

# On that tower, by the configs of these names; tools/ship_miniature.py wrote all four.
DETECTOR = str(Path(__file__).parent / "ov_shapes_detector.pth")
PANOPTIC_SEGMENTER = str(Path(__file__).parent / "ov_shapes_panoptic_segmenter.pth")
SEMANTIC_SEGMENTER = str(Path(__file__).parent / "ov_shapes_semantic_segmenter.pth")


def build_guide() -> TowerGuide:
    """The shipped CLIP's fourth block, which plays DINO for the dense mode `proxyclip`."""
    return TowerGuide(build_image_tower(MODEL, WEIGHTS), block=3)


open_clip.add_model_config(Path(__file__).parent / "model_configs")
register_ov_shapes()

__all__ = [
    "CLASSES",
    "CLIPSELF_WEIGHTS",
    "DETECTOR",
    "MODEL",
    "PANOPTIC_SEGMENTER",
    "SEMANTIC_SEGMENTER",
    "STUFF",
    "TEMPLATES",
    "THINGS",
    "WEIGHTS",
    "CLIPExport",
    "ImageTextCLIP",
    "SceneCaptionMapper",
    "build_guide",
    "caption_roles",
]
