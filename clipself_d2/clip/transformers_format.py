"""A CLIP as a folder that transformers' `CLIPModel` or `SiglipModel` loads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from open_clip import SimpleTokenizer
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clipself_d2.clip.attention_pool import TimmPoolTower
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.formats import text_at_top, unlike_openai, uses_quick_gelu
from clipself_d2.clip.transformers_names import to_transformers_names
from clipself_d2.errors import InputError

_CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 77,
}
# open_clip's names of a SigLIP's weights, without the blocks' numbers
_SIGLIP_IMAGE = {"visual.trunk.pos_embed", "visual.trunk.attn_pool.latent"} | {
    f"visual.trunk.{layer}.{kind}"
    for layer in (
        *("patch_embed.proj", "norm", "blocks.norm1", "blocks.attn.qkv", "blocks.attn.proj", "blocks.norm2"),
        *("blocks.mlp.fc1", "blocks.mlp.fc2", "attn_pool.q", "attn_pool.kv", "attn_pool.proj", "attn_pool.norm"),
        *("attn_pool.mlp.fc1", "attn_pool.mlp.fc2"),
    )
    for kind in ("weight", "bias")
}
_SIGLIP_WORDS = {"token_embedding.weight", "positional_embedding", "logit_scale", "logit_bias"} | {
    f"{layer}{kind}"
    for layer in (
        *("ln_final.", "text_projection.", "resblocks.ln_1.", "resblocks.ln_2.", "resblocks.attn.in_proj_"),
        *("resblocks.attn.out_proj.", "resblocks.mlp.c_fc.", "resblocks.mlp.c_proj."),
    )
    for kind in ("weight", "bias")
}
# open_clip's cleaning of a SigLIP's texts, as the tokenizers library writes it
_CANONICALIZE = [
    {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""},
    {"type": "Lowercase"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
]


def save_transformers(model: Any, tokenizer: Any, folder: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write weights (fp32), config, tokenizer and image processor.

    Args:
        model: an open_clip model: a plain ViT whose class token is read, with OpenAI's text tower; or a SigLIP.
        tokenizer: open_clip's, of that model.
        folder: is made.
        mean, std: RGB statistics in 0..1 units.

    Raises:
        InputError: a model for which `CLIPModel` and `SiglipModel` have no place.
        OSError: the disk.
    """
    siglip = TimmPoolTower.matches(model.visual) and type(model.visual.trunk) is VisionTransformer
    state = text_at_top(model.state_dict())
    if reason := (_unlike_siglip if siglip else _unlike_clip)(model, tokenizer, state):
        name = "SiglipModel" if siglip else "CLIPModel"
        raise InputError(f"transformers' {name} would compute something else: {reason}; use --format open_clip")
    weights = {key: value.float().contiguous().clone() for key, value in to_transformers_names(state).items()}
    square = {"height": model.visual.image_size[0], "width": model.visual.image_size[0]}
    if siglip:
        sizes = {"image_processor_type": "SiglipImageProcessor", "size": square}
    else:
        sizes = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": square["height"]},
            "crop_size": square,
        }
    bicubic = 3
    processor = {**sizes, "image_mean": list(mean), "image_std": list(std), "resample": bicubic}
    files = {
        "config.json": json.dumps((_siglip_config if siglip else _clip_config)(model, weights), indent=2),
        "preprocessor_config.json": json.dumps(processor, indent=2),
        **(_siglip_tokenizer(tokenizer, folder) if siglip else _clip_tokenizer(tokenizer)),
    }
    write_atomically(folder / "model.safetensors", lambda file: save_file(weights, file, {"format": "pt"}))
    for name, text in files.items():
        write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))


def _unlike_clip(model: Any, tokenizer: Any, state: Mapping[str, Tensor]) -> str:
    """What sets a model apart from `CLIPModel`; "" if nothing."""
    text = getattr(model, "text", model)
    if "visual.proj" not in state or "visual.attn_pool.query" in state:
        return "its image tower is not open_clip's plain ViT"
    if reason := unlike_openai(model, state):
        return reason
    if "text_projection" not in state or "logit_bias" in state:
        return "its text tower is not OpenAI's"
    if getattr(text, "pool_type", getattr(text, "text_pool_type", None)) != "argmax" or "cls_emb" in state:
        return "its text tower does not read the end token"
    return "" if isinstance(tokenizer, SimpleTokenizer) else "its tokenizer is not OpenAI's"


def _unlike_siglip(model: Any, tokenizer: Any, state: Mapping[str, Tensor]) -> str:
    """What sets a model with timm's ViT and attention pool apart from `SiglipModel`; "" if nothing."""
    pool, block = model.visual.trunk.attn_pool, model.visual.trunk.blocks[0]
    names = {re.sub(r"(blocks\.)\d+\.", r"\1", key).removeprefix("transformer.") for key in state}
    image = {key for key in names if key.startswith("visual.")}
    if image != _SIGLIP_IMAGE or len(set(model.visual.image_size)) > 1:
        return "its image tower is not SigLIP's"
    if pool.num_heads != block.attn.num_heads or pool.mlp.fc1.out_features != block.mlp.fc1.out_features:
        return "its attention pool has other sizes than its blocks"
    if names - image != _SIGLIP_WORDS or model.text.attn_mask is not None or model.text.pool_type != "last":
        return "its text tower is not SigLIP's"
    return "" if isinstance(tokenizer, HFTokenizer) else "its tokenizer is not one of transformers"


def _clip_config(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    visual, text = model.visual, getattr(model, "text", model)
    words = len(weights["text_model.embeddings.token_embedding.weight"])
    both = {"hidden_act": "quick_gelu" if uses_quick_gelu(model) else "gelu", "projection_dim": visual.output_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": visual.output_dim,
        "vision_config": {
            **_vision_sizes(visual, weights),
            **both,
            "model_type": "clip_vision_model",
            "num_attention_heads": visual.transformer.resblocks[0].attn.num_heads,
        },
        "text_config": {
            **_text_sizes(text, weights),
            **both,
            "model_type": "clip_text_model",
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,  # the largest number, which open_clip looks for
        },
    }


def _siglip_config(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    block, words = model.visual.trunk.blocks[0], model.text.transformer.resblocks[0]
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {
            **_vision_sizes(model.visual, weights),
            "model_type": "siglip_vision_model",
            "num_attention_heads": block.attn.num_heads,
            "hidden_act": _hidden_act(block.mlp.act),
            "layer_norm_eps": block.norm1.eps,
        },
        "text_config": {
            **_text_sizes(model.text, weights),
            "model_type": "siglip_text_model",
            "projection_size": len(weights["text_model.head.bias"]),
            "hidden_act": _hidden_act(words.mlp.gelu),
            "layer_norm_eps": words.ln_1.eps,
            "bos_token_id": None,  # the model reads neither
            "eos_token_id": None,
        },
    }


def _vision_sizes(visual: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    patch_size = weights["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    return {**_block_sizes("vision_model", weights), "image_size": visual.image_size[0], "patch_size": patch_size}


def _text_sizes(text: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **_block_sizes("text_model", weights),
        "num_attention_heads": text.transformer.resblocks[0].attn.num_heads,
        "vocab_size": len(weights["text_model.embeddings.token_embedding.weight"]),
        "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
    }


def _block_sizes(tower: str, weights: Mapping[str, Tensor]) -> dict[str, int]:
    mlps = [value for key, value in weights.items() if key.startswith(f"{tower}.encoder.") and "fc1.weight" in key]
    return {"hidden_size": mlps[0].shape[1], "intermediate_size": mlps[0].shape[0], "num_hidden_layers": len(mlps)}


def _hidden_act(module: nn.Module) -> str:
    tanh = type(module).__name__ == "GELUTanh" or getattr(module, "approximate", "none") == "tanh"
    return "gelu_pytorch_tanh" if tanh else "gelu"


def _clip_tokenizer(tokenizer: Any) -> dict[str, str]:
    words = {re.sub("^<(start|end)_of_text>$", r"<|\1oftext|>", word): n for word, n in tokenizer.encoder.items()}
    return {
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", **_CLIP_TOKENS}, indent=2),
        "vocab.json": json.dumps(words, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks) + "\n",
    }


def _siglip_tokenizer(tokenizer: Any, folder: Path) -> dict[str, str]:
    """The tokenizer with open_clip's cleaning in it; sentencepiece's, which cleans by itself, is saved as it is."""
    own = tokenizer.tokenizer
    if not hasattr(own, "backend_tokenizer"):
        own.save_pretrained(folder)
        return {}
    content = json.loads(own.backend_tokenizer.to_str())
    if tokenizer.clean_fn is get_clean_fn("canonicalize"):
        steps = [*_CANONICALIZE, *filter(None, [content["normalizer"]])]
        content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "model_input_names": ["input_ids"],  # SigLIP attends to the padding too
        **own.special_tokens_map,
    }
    return {
        "tokenizer.json": json.dumps({**content, "padding": None, "truncation": None}, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
