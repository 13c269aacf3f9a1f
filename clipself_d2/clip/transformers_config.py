"""Configs of transformers' CLIPModel and SiglipModel in open_clip's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipself_d2.clip.siglip import siglip_name

# what transformers' configs leave out
_SIGLIP_BLOCKS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SIGLIP_VISION = {**_SIGLIP_BLOCKS, "image_size": 224, "patch_size": 16, "vision_use_head": True}
_SIGLIP_TEXT = {**_SIGLIP_BLOCKS, "vocab_size": 32000, "max_position_embeddings": 64}
_TIMM_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def from_transformers_config(config: Mapping[str, Any], tokenizer: str) -> dict[str, Any]:
    """The config of a `CLIPModel` or `SiglipModel` in open_clip's form.

    Args:
        config: the content of ``config.json``.
        tokenizer: the repository or folder, whose tokenizer a SigLIP uses.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: another config.
    """
    if config["model_type"] == "siglip":
        return _from_siglip_config(config, tokenizer)
    if config["model_type"] != "clip":
        raise ValueError(config["model_type"])
    vision, text = config["vision_config"], config["text_config"]
    width, heads = vision.get("hidden_size", 768), vision.get("num_attention_heads", 12)
    text_width = text.get("hidden_size", 512)
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": vision.get("hidden_act", "quick_gelu") == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "width": width,
            "layers": vision.get("num_hidden_layers", 12),
            "head_width": width // heads,
            "mlp_ratio": vision.get("intermediate_size", 3072) / width,
        },
        "text_cfg": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": text.get("vocab_size", 49408),
            "width": text_width,
            "heads": text.get("num_attention_heads", 8),
            "layers": text.get("num_hidden_layers", 12),
            "mlp_ratio": text.get("intermediate_size", 2048) / text_width,
        },
    }


def _from_siglip_config(config: Mapping[str, Any], tokenizer: str) -> dict[str, Any]:
    vision = {**_SIGLIP_VISION, **config.get("vision_config", {})}
    text = {**_SIGLIP_TEXT, **config.get("text_config", {})}
    if not vision["vision_use_head"] or vision["layer_norm_eps"] != 1e-6:
        raise ValueError("an image tower that timm does not build")
    approximate = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}[text["hidden_act"]]
    return {
        "embed_dim": vision["hidden_size"],
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": siglip_name(vision, _TIMM_ACTIVATIONS[vision["hidden_act"]]),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "hf_tokenizer_name": tokenizer,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": (text["intermediate_size"] + 0.5) / text["hidden_size"],  # open_clip rounds the product down
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": text["layer_norm_eps"]},
            "act_kwargs": {"approximate": approximate},
        },
    }
