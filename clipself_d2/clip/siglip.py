"""SigLIP's image tower of any size, as a timm model that open_clip builds by its name.

timm's own names have the published sizes alone, most of them with the exact GELU; transformers' SigLIP approximates it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from timm.models import is_model, register_model
from timm.models.vision_transformer import VisionTransformer

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size")
_NAME = re.compile(r"siglip_(\d+)x(\d+)_layers(\d+)_heads(\d+)_patch(\d+)_(\d+)_(gelu|gelu_tanh)")


def siglip_name(sizes: Mapping[str, Any], activation: str) -> str:
    """The timm name of a tower.

    Args:
        sizes: by the names of transformers' `SiglipVisionConfig`.
        activation: timm's name, ``gelu`` or ``gelu_tanh``.

    Raises:
        KeyError, TypeError, ValueError: sizes that are absent or none.
    """
    width, mlp, layers, heads, patch, image = numbers = [int(sizes[key]) for key in _SIZES]
    if min(numbers) < 1:
        raise ValueError(numbers)
    return f"siglip_{width}x{mlp}_layers{layers}_heads{heads}_patch{patch}_{image}_{activation}"


def is_siglip_name(name: str) -> bool:
    """Whether `siglip_name` made a name; timm and open_clip alone do not know it."""
    return _NAME.fullmatch(name) is not None


def register_siglip(name: str) -> None:
    """Let timm build the tower of a name that `siglip_name` made; nothing for another name."""
    match = _NAME.fullmatch(name)
    if match is None or is_model(name):
        return
    width, mlp, layers, heads, patch, image = map(int, match.groups()[:-1])

    def build(num_classes: int = 0, global_pool: Literal["", "map"] = "map", **_: Any) -> VisionTransformer:
        return VisionTransformer(
            img_size=image,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            mlp_ratio=(mlp + 0.5) / width,  # timm rounds the product down
            class_token=False,
            act_layer=match[7],
            num_classes=num_classes,
            global_pool=global_pool,
        )

    build.__name__ = name
    register_model(build)
