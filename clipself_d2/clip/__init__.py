"""CLIP: image towers, text tower, checkpoints in every published format."""

from clipself_d2.clip.build import build_image_tower, build_text_tower, build_towers
from clipself_d2.clip.checkpoint import interpolate, load_checkpoint, read_checkpoint, save_checkpoint
from clipself_d2.clip.text import TextTower
from clipself_d2.clip.tower import ImageTower, TowerFeatures

__all__ = [
    "ImageTower",
    "TextTower",
    "TowerFeatures",
    "build_image_tower",
    "build_text_tower",
    "build_towers",
    "interpolate",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]
