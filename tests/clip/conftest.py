"""Tiny CLIPs of every family, as JSON configs that `build_towers` reads."""

import copy
import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import HybridEmbed, LayerNorm
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from clipself_d2.clip import ImageTower, TextTower, build_towers

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}


def timm_config(name: str, **vision: Any) -> dict[str, Any]:
    """A config with one of timm's trunks below."""
    images = {"image_size": 32, "timm_model_name": name, "timm_pool": "token", "timm_proj": None}
    return {"embed_dim": 24, "vision_cfg": {**images, **vision}, "text_cfg": TEXT, "custom_text": True}


CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-layerscale": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "ls_init_value": 0.5, "no_ln_pre": True, "head_width": 32},
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "tiny-eva": timm_config("eva02_tiny_patch8_clip_32"),
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
    "tiny-clipa": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT,
    },
    "tiny-coca": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
        "text_cfg": TEXT,
    },
    "tiny-eva-e": timm_config("eva02_tiny_enormous_32"),
    "tiny-mobileclip": timm_config("vit_tiny_stem_32"),
    "tiny-mean": timm_config("vit_tiny_mean_32", timm_pool="avg"),  # as ViTamin after its stem
    "tiny-pe": timm_config("vit_tiny_pe_32", timm_pool="map"),
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
}
FAMILIES = tuple(CONFIGS)
TRANSFORMERS = tuple(name for name in FAMILIES if name not in ("tiny-resnet", "tiny-pooled", "tiny-coca", "tiny-pe"))
TRUNK: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}


def head(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What open_clip asks of a trunk's head, without what timm adds."""
    return {key: value for key, value in kwargs.items() if key in ("global_pool", "num_classes")}


@register_model
def eva02_tiny_patch8_clip_32(pretrained: bool = False, **kwargs: Any) -> Eva:
    """EVA-02-CLIP B/16's build, at the size of a test."""
    return Eva(
        **TRUNK,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        **head(kwargs),
    )


@register_model
def vit_tiny_patch8_siglip_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """SigLIP's build, at the size of a test."""
    return VisionTransformer(**TRUNK, class_token=False, **head(kwargs))


@register_model
def eva02_tiny_enormous_32(pretrained: bool = False, **kwargs: Any) -> Eva:
    """EVA02-E's build: norms after attention and MLP, one matrix for queries, keys and values, no rotary positions."""
    return Eva(**TRUNK, use_post_norm=True, **head(kwargs))


@register_model
def vit_tiny_stem_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """MobileCLIP-B's build: a convolutional stem with batch norm, positions of the patches alone."""
    stem = ConvStem(channels=(32, 32, 128), stride=(2, 2, 2), kernel_size=2, padding=0, act_layer=nn.GELU)
    embed = partial(HybridEmbed, backbone=stem, proj=False)
    return VisionTransformer(**{**TRUNK, "patch_size": 1}, embed_layer=embed, no_embed_class=True, **head(kwargs))


@register_model
def vit_tiny_mean_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The build of vit_medium_patch16_gap_256: the patches' mean, no class token, layer scale, no bias."""
    trunk = {**TRUNK, "class_token": False, "fc_norm": False}
    return VisionTransformer(**trunk, qkv_bias=False, init_values=0.5, **head(kwargs))


@register_model
def vit_tiny_pe_32(pretrained: bool = False, **kwargs: Any) -> Eva:
    """The Perception Encoder's build."""
    return Eva(
        **TRUNK,
        attn_type="rope",
        use_pre_transformer_norm=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(6, 6),
        rope_grid_offset=1.0,
        rope_grid_indexing="xy",
        attn_pool_num_heads=8,
        attn_pool_mlp_ratio=4.0,
        norm_layer=partial(LayerNorm, eps=1e-5),
        **head(kwargs),
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
