"""Tiny CLIPs of every family, as JSON configs that `build_towers` reads."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clipself_d2.clip import ImageTower, TextTower, build_towers

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-layerscale": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "ls_init_value": 0.5, "no_ln_pre": True, "head_width": 32},
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "tiny-eva": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "eva02_tiny_patch8_clip_32",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "tiny-pooled": {  # SigLIP; a name with "siglip" would make open_clip download its tokenizer
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_tiny_patch8_siglip_32",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
}
FAMILIES = tuple(CONFIGS)
TRANSFORMERS = tuple(name for name in FAMILIES if name not in ("tiny-resnet", "tiny-pooled"))


@register_model
def eva02_tiny_patch8_clip_32(pretrained: bool = False, **kwargs: Any) -> Eva:
    """EVA-02-CLIP B/16's build, at the size of a test."""
    return Eva(
        img_size=32,
        patch_size=8,
        embed_dim=128,
        depth=3,
        num_heads=2,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        global_pool=kwargs["global_pool"],
        num_classes=kwargs["num_classes"],
    )


@register_model
def vit_tiny_patch8_siglip_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """SigLIP's build, at the size of a test."""
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=128,
        depth=3,
        num_heads=2,
        class_token=False,
        global_pool=kwargs["global_pool"],
        num_classes=kwargs["num_classes"],
    )


def randomize(module: nn.Module) -> None:
    """Weights large enough that every term of the arithmetic shows."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if (
                not value.is_floating_point() or "token_embedding" in name
            ):  # 49,408 words: slow to draw, and random enough
                continue
            if "running_var" in name:
                value.uniform_(0.5, 1.5)
            elif value.ndim > 1:
                value.normal_(std=0.1 if "embed" in name else value[0].numel() ** -0.5)
            elif name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif "logit" not in name:
                value.normal_(std=0.2)


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of the JSON configs, by family."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return {name: str(folder / f"{name}.json") for name in CONFIGS}


@pytest.fixture(scope="session")
def built(configs: dict[str, str]) -> Callable[[str], tuple[ImageTower, TextTower]]:
    """Both towers of a family, built once."""
    return functools.cache(lambda name: build_towers(configs[name], None))


@pytest.fixture
def towers(built: Callable[[str], tuple[ImageTower, TextTower]]) -> Callable[[str], tuple[ImageTower, TextTower]]:
    """Both towers of a family, with random weights."""

    def draw(name: str) -> tuple[ImageTower, TextTower]:
        tokenizer = built(name)[1].tokenizer  # shared: its dictionaries are slow to copy
        image, text = copy.deepcopy(built(name), {id(tokenizer): tokenizer})
        randomize(image)
        randomize(text)
        return image, text

    return draw


@pytest.fixture
def checkpoint(towers: Callable[[str], tuple[ImageTower, TextTower]], tmp_path: Path) -> Callable[[str], Path]:
    """A `torch.save` file of a whole CLIP, with the names that open_clip uses."""

    def save(name: str) -> Path:
        image, text = towers(name)
        path = tmp_path / f"{name}.pt"
        torch.save({**image.state_dict(), **text.state_dict()}, path)
        return path

    return save
