"""Weight names of each published format, and their translation to open_clip's.

Read: open_clip, OpenAI, transformers, official EVA-CLIP, CLIPSelf (EVA or OpenAI names) and CAT-Seg, ours.
Written: open_clip, OpenAI, CAT-Seg; transformers in `clip.transformers_format`, its names in `clip.transformers_names`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipself_d2.clip.transformers_names import from_transformers_names, fuse_projections, split_projections
from clipself_d2.errors import InputError

CAT_SEG_PREFIX = "sem_seg_head.predictor.clip_model."
"""Where the official CAT-Seg, a Detectron2 model, keeps its CLIP."""

OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")
POSITION_TABLES = ("visual.positional_embedding", "visual.trunk.pos_embed", "visual.attnpool.positional_embedding")
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
_WORDS = "token_embedding.weight"
_FLAT_TEXT = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")
# official EVA-CLIP -> timm, in this order (w12 is absent from the EVA-02-CLIP models)
_EVA_NAMES = (
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.attn\.q_bias$", ".attn.q_proj.bias"),
    (r"\.attn\.v_bias$", ".attn.v_proj.bias"),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^visual\.", "visual.trunk."),
)

# prefixes of DistributedDataParallel and torch.compile, around the whole model or a part of it
_MODULE_PREFIXES = re.compile(r"(^|\.)(?:(?:module|_orig_mod)\.)+")


def unwrap(content: object) -> dict[str, Tensor]:
    """The tensors inside a training checkpoint (``{"state_dict": ..., "optimizer": ...}`` and the like).

    The prefixes ``module.``, ``_orig_mod.`` and, where all names have it, ``model.`` are removed, however often they
    are there.

    Raises:
        InputError: it holds no dictionary of tensors.
    """
    for _ in range(4):
        if isinstance(content, Mapping):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(map(_is_name, content)):
        raise InputError("it holds no dictionary of weights")
    numbers = {
        key: torch.tensor(value) for key, value in content.items() if key in OPENAI_NUMBERS and isinstance(value, int)
    }
    if wrong := [key for key, value in content.items() if not isinstance(value, Tensor) and key not in numbers]:
        raise InputError(f"'{wrong[0]}' in it is not a tensor: the file holds no dictionary of weights")
    state = {_MODULE_PREFIXES.sub(r"\1", key): value for key, value in {**content, **numbers}.items()}
    if len(state) < len(content):
        raise InputError("it holds two models, whose names differ by 'module.' or '_orig_mod.': save one of them alone")
    while all(key.startswith("model.") for key in state):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    return state


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of any published format to open_clip's names; drop tables that are recomputed.

    From a CAT-Seg checkpoint, only the CLIP is taken.
    """
    renamed = _from_cat_seg(state) if _is_cat_seg(state) else dict(state)
    if any(key.startswith("visual.blocks.") for key in renamed):
        renamed = {_eva_name(key): value for key, value in renamed.items() if ".rope." not in key}
    if any(key.startswith("vision_model.encoder.layers.") for key in renamed):
        renamed = from_transformers_names(renamed)
    dropped = (*OPENAI_NUMBERS, "embeddings.position_ids")
    return {key: value for key, value in renamed.items() if not key.endswith(dropped)}


def match_text_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the text tower's names where a model expects them: ``text.*`` (CustomTextCLIP) or at the top (CLIP)."""
    if _WORDS in state and f"text.{_WORDS}" in expected:
        return {f"text.{key}" if key.startswith(_FLAT_TEXT) else key: value for key, value in state.items()}
    if f"text.{_WORDS}" in state and _WORDS in expected:
        return {key.removeprefix("text."): value for key, value in state.items()}
    return dict(state)


def text_at_top(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip model's weights with the text tower's names at the top, as in OpenAI's CLIP."""
    return match_text_names(state, {_WORDS: torch.empty(0)})


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are in OpenAI's own format, or CAT-Seg's, whose networks use QuickGELU."""
    return all(key in state for key in OPENAI_NUMBERS) or _is_cat_seg(state)


def uses_quick_gelu(model: nn.Module) -> bool:
    """Whether any activation of an open_clip model is QuickGELU."""
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def to_openai(model: Any) -> dict[str, Tensor]:
    """An open_clip model's weights as OpenAI's state dict, fp32, with the three numbers that its loader reads.

    Args:
        model: an open_clip model that OpenAI's loader can rebuild: plain ViT or ResNet, QuickGELU, heads of 64.

    Raises:
        InputError: any other model, from whose weights OpenAI's loader would build another network.
    """
    state = text_at_top(model.state_dict())
    if "visual.proj" not in state and "visual.attnpool.c_proj.weight" not in state:
        raise InputError(
            "only plain CLIP ViTs and ResNets have an OpenAI format; EVA-02's rotary positions, inner norms and SwiGLU "
            "have no place in it: use --format open_clip"
        )
    if not uses_quick_gelu(model):
        raise InputError(
            "OpenAI's loader always uses QuickGELU, this model does not, and the embeddings would differ: "
            "use --format open_clip"
        )
    blocks = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    if any(block.head_dim != 64 for block in blocks):
        raise InputError("OpenAI's loader expects attention heads of 64 channels: use --format open_clip")
    widths = (value.shape for key, value in state.items() if key.endswith("mlp.c_fc.weight"))
    wide = "" if all(out == 4 * width for out, width in widths) else "its MLPs are not four times as wide"
    if reason := unlike_openai(model, state) or wide:
        raise InputError(f"OpenAI's loader would build another network: {reason}; use --format open_clip")
    size = model.visual.image_size
    numbers = {
        "input_resolution": size[0] if isinstance(size, (tuple, list)) else size,
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
    }
    weights = {key: value.detach().float().contiguous() for key, value in state.items()}
    return {**weights, **{key: torch.tensor(value) for key, value in numbers.items()}}


def unlike_openai(model: Any, state: Mapping[str, Tensor]) -> str:
    """What sets a ViT or ResNet of open_clip apart from OpenAI's, which other loaders build; "" if nothing."""
    size = model.visual.image_size
    if isinstance(size, (tuple, list)) and size[0] != size[1]:
        return f"its image is {size[0]} x {size[1]}, not a square"
    if "visual.proj" in state and "visual.ln_pre.weight" not in state:
        return "its image tower has no norm before its blocks"
    if getattr(model.visual, "pool_type", "tok") != "tok":
        return f"its image tower pools by {model.visual.pool_type!r}, not the class token"
    if any(".ls_1." in key or ".ls_2." in key for key in state):
        return "its blocks have layer scale"
    return ""


def to_cat_seg(model: Any) -> dict[str, dict[str, Tensor]]:
    """An open_clip model's weights as a checkpoint for the official CAT-Seg's ``MODEL.WEIGHTS``, fp32.

    CAT-Seg builds its CLIP from OpenAI's download, then loads this over it; its attention keeps queries, keys and
    values in separate matrices. Its dense map is not the one that CLIPSelf trains: after the last block's value path
    CAT-Seg adds the class token's residual to every patch, the paper each patch's own.

    Args:
        model: an open_clip model that `to_openai` takes, and a ViT; the CLIP that CAT-Seg's config names
            (``MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED``) must be of the same size.

    Raises:
        InputError: any other model.
    """
    state = to_openai(model)
    if "visual.proj" not in state:
        raise InputError("CAT-Seg's CLIP is a ViT, this model's image tower is a ResNet: use --format openai")
    weights = {f"{CAT_SEG_PREFIX}{key}": value for key, value in state.items() if key not in OPENAI_NUMBERS}
    split_projections(weights, "in_proj_weight", "_proj_weight")
    return {"model": weights}


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isprintable() and len(key) < 500


def _is_cat_seg(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(CAT_SEG_PREFIX) for key in state)


def _from_cat_seg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The CLIP in a CAT-Seg checkpoint; see `to_cat_seg`."""
    clip = {key.removeprefix(CAT_SEG_PREFIX): value for key, value in state.items() if key.startswith(CAT_SEG_PREFIX)}
    fuse_projections(clip, "_proj_weight", "in_proj_weight")
    return clip


def _eva_name(key: str) -> str:
    if not key.startswith("visual."):
        return key
    for pattern, replacement in _EVA_NAMES:
        key = re.sub(pattern, replacement, key)
    return key
