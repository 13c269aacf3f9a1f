"""clipself_d2: CLIPSelf and open-vocabulary dense prediction with CLIP vision transformers, on Detectron2."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

if find_spec("detectron2") is None:  # not on PyPI, so pip cannot require it
    raise ImportError("clipself_d2 needs Detectron2, which pip cannot fetch by name: see docs/install.md")

__version__ = "0.1.0"

# What a user starts with; imported on first use, because PyTorch, open_clip and Detectron2 take seconds.
_EXPORTS = {
    "CLIPSelf": "clipself_d2.distillation",
    "FViT": "clipself_d2.detection",
    "RegionClassifier": "clipself_d2.regions",
    "Vocabulary": "clipself_d2.vocabulary",
    "build_towers": "clipself_d2.clip",
    "read_image": "clipself_d2.data",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clipself_d2' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
