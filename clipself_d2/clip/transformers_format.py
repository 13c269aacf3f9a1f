"""A CLIP as a folder that transformers' `CLIPModel.from_pretrained` loads, and the configs of such folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.formats import (
    TRANSFORMERS_NAMES,
    match_text_names,
    rename,
    split_projections,
    unlike_openai,
    uses_quick_gelu,
)
from clipself_d2.errors import InputError


def save_transformers(model: Any, folder: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write weights (fp32), config, tokenizer and image processor.

    Args:
        model: an open_clip model: a plain ViT whose class token is read, and OpenAI's text tower.
        folder: is made.
        mean, std: RGB statistics in 0..1 units.

    Raises:
        InputError: a model for which `CLIPModel` has no place.
        OSError: the disk.
    """
    weights = to_transformers(model)
    side = model.visual.image_size[0]
    write_atomically(folder / "model.safetensors", lambda file: save_file(weights, file, {"format": "pt"}))
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": list(mean),
        "image_std": list(std),
        "resample": 3,  # bicubic
    }
    tokenizer = SimpleTokenizer()
    words = {re.sub("^<(start|end)_of_text>$", r"<|\1oftext|>", word): n for word, n in tokenizer.encoder.items()}
    files = {
        "config.json": json.dumps(_config(model, weights), indent=2),
        "preprocessor_config.json": json.dumps(processor, indent=2),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", **_SPECIAL_TOKENS}, indent=2),
        "vocab.json": json.dumps(words, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks) + "\n",
    }
    for name, text in files.items():
        write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))


def from_transformers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `CLIPModel` in open_clip's form; KeyError, TypeError or ValueError for another."""
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


_SPECIAL_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 77,
}


def to_transformers(model: Any) -> dict[str, Tensor]:
    """An open_clip model's weights with the names of transformers' `CLIPModel`; see `save_transformers`."""
    state = match_text_names(model.state_dict(), {"text_projection": torch.empty(0)})
    text = getattr(model, "text", model)
    reason = unlike_openai(model, state)
    if "visual.proj" not in state or "visual.attn_pool.query" in state:
        reason = "its image tower is not open_clip's plain ViT"
    elif not isinstance(state.get("text_projection"), Tensor) or state.get("logit_bias") is not None:
        reason = "its text tower is not OpenAI's"
    elif getattr(text, "pool_type", getattr(text, "text_pool_type", None)) != "argmax" or "cls_emb" in state:
        reason = "its text tower does not read the end token"
    if reason:
        raise InputError(f"transformers' CLIPModel would compute something else: {reason}; use --format open_clip")
    weights = dict(state)
    split_projections(weights, "in_proj_weight", "_proj.weight")
    split_projections(weights, "in_proj_bias", "_proj.bias")
    for name in ("visual.proj", "text_projection"):
        weights[name] = weights[name].T
    named = {rename(key, TRANSFORMERS_NAMES): value.detach() for key, value in weights.items()}
    return {key: value.float().contiguous().clone() for key, value in named.items()}


def _config(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    visual, text = model.visual, getattr(model, "text", model)
    words = weights["text_model.embeddings.token_embedding.weight"]

    def blocks(transformer: Any, name: str) -> dict[str, Any]:
        return {
            "hidden_size": transformer.width,
            "intermediate_size": len(weights[f"{name}.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": len(transformer.resblocks),
            "num_attention_heads": transformer.resblocks[0].attn.num_heads,
            "hidden_act": "quick_gelu" if uses_quick_gelu(model) else "gelu",
            "projection_dim": visual.output_dim,
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": visual.output_dim,
        "vision_config": {
            **blocks(visual.transformer, "vision_model"),
            "model_type": "clip_vision_model",
            "image_size": visual.image_size[0],
            "patch_size": visual.patch_size[0],
        },
        "text_config": {
            **blocks(text.transformer, "text_model"),
            "model_type": "clip_text_model",
            "vocab_size": len(words),
            "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,  # the largest number, which open_clip looks for
        },
    }
