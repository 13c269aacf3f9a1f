"""CLIP: image towers, the text tower, and checkpoints in every published format."""

from typing import TYPE_CHECKING, Any

from clipself_d2.clip.checkpoint import interpolate, load_checkpoint, read_checkpoint, save_checkpoint
from clipself_d2.clip.text import TextTower
from clipself_d2.clip.tower import ImageTower, TowerFeatures

if TYPE_CHECKING:
    from clipself_d2.clip.build import build_image_tower, build_text_tower, build_towers

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


def __getattr__(name: str) -> Any:
    if name.startswith("build_") and name in __all__:
        from clipself_d2.clip import build  # imports open_clip, which takes seconds

        return getattr(build, name)
    raise AttributeError(f"module 'clipself_d2.clip' has no attribute {name!r}")
