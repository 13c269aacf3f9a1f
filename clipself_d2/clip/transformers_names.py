"""Weight names of transformers' CLIPModel and SiglipModel, and their translation from and to open_clip's."""

from collections.abc import Mapping

import torch
from torch import Tensor

_TEXT = (
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
_BLOCKS = (
    (".attn.", ".self_attn."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
_NAMES = {
    "clip": {
        "image": (
            ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
            ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
            ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("visual.ln_pre.", "vision_model.pre_layrnorm."),  # so spelled there
            ("visual.ln_post.", "vision_model.post_layernorm."),
            ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
            ("visual.proj", "visual_projection.weight"),
            *_BLOCKS,
        ),
        "text": (*_TEXT, ("text_projection", "text_projection.weight"), *_BLOCKS),
    },
    "siglip": {
        "image": (
            ("visual.trunk.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
            ("visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight"),
            ("visual.trunk.norm.", "vision_model.post_layernorm."),
            ("visual.trunk.blocks.", "vision_model.encoder.layers."),
            (".attn.qkv.", ".self_attn.in_proj_"),
            (".attn.proj.", ".self_attn.out_proj."),
            (".norm1.", ".layer_norm1."),
            (".norm2.", ".layer_norm2."),
            ("visual.trunk.attn_pool.latent", "vision_model.head.probe"),
            ("visual.trunk.attn_pool.proj.", "vision_model.head.attention.out_proj."),
            ("visual.trunk.attn_pool.norm.", "vision_model.head.layernorm."),
            ("visual.trunk.attn_pool.", "vision_model.head."),
        ),
        "text": (*_TEXT, ("text_projection.", "text_model.head."), *_BLOCKS),
    },
}
"""By `model_type` and tower: open_clip's names and transformers', for `_rename`."""

_HEAD = "vision_model.head."


def from_transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `CLIPModel` or `SiglipModel` with open_clip's names, the text tower's at the top."""
    siglip, state = f"{_HEAD}probe" in state, dict(state)
    fuse_projections(state, "_proj.weight", "in_proj_weight")
    fuse_projections(state, "_proj.bias", "in_proj_bias")
    for kind in ("weight", "bias"):
        fused = state.pop(f"{_HEAD}attention.in_proj_{kind}", None)
        if fused is not None and fused.ndim:
            width = len(fused) // 3
            state |= {f"{_HEAD}q.{kind}": fused[:width], f"{_HEAD}kv.{kind}": fused[width:]}
    renamed = {_rename(key, siglip, reverse=True): value for key, value in state.items()}
    if siglip:
        return {key: value[None] if key == "visual.trunk.pos_embed" else value for key, value in renamed.items()}
    transposed = ("visual.proj", "text_projection")
    return {key: value.T if key in transposed and value.ndim == 2 else value for key, value in renamed.items()}


def to_transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights, with the text tower's names at the top, as those of a `CLIPModel` or `SiglipModel`."""
    siglip, state = "visual.trunk.pos_embed" in state, dict(state)
    if siglip:
        state["visual.trunk.pos_embed"] = state["visual.trunk.pos_embed"][0]
        state |= {key: state[key].reshape(1) for key in ("logit_scale", "logit_bias")}
    else:
        state |= {key: state[key].T for key in ("visual.proj", "text_projection")}
    renamed = {_rename(key, siglip): value for key, value in state.items()}
    split_projections(renamed, "in_proj_weight", "_proj.weight")
    split_projections(renamed, "in_proj_bias", "_proj.bias")
    for kind in ("weight", "bias") if siglip else ():
        parts = [renamed.pop(f"{_HEAD}{name}.{kind}") for name in ("q", "kv")]
        renamed[f"{_HEAD}attention.in_proj_{kind}"] = torch.cat(parts)
    return renamed


def fuse_projections(state: dict[str, Tensor], part: str, fused: str) -> None:
    """Concatenate ``q*``, ``k*`` and ``v*`` of each attention that has all three."""
    for parent in [key.removesuffix(f"q{part}") for key in state if key.endswith(f".q{part}")]:
        names = [f"{parent}{name}{part}" for name in "qkv"]
        if all(name in state and state[name].shape == state[names[0]].shape for name in names):
            state[f"{parent}{fused}"] = torch.cat([state.pop(name) for name in names])


def split_projections(state: dict[str, Tensor], fused: str, part: str) -> None:
    """Split the fused projection of each attention into ``q*``, ``k*`` and ``v*``, tensors of their own."""
    for parent in [key.removesuffix(fused) for key in state if key.endswith(f".{fused}")]:
        parts = zip("qkv", state.pop(f"{parent}{fused}").chunk(3), strict=True)
        state |= {f"{parent}{name}{part}": value.clone() for name, value in parts}


def _rename(key: str, siglip: bool, reverse: bool = False) -> str:
    """Replace each old name in a key of a state dict by the new one, in the table's order.

    A name that begins with a dot stands anywhere in the key, another that ends with one at its beginning, and one
    without is the whole key.
    """
    names = _NAMES["siglip" if siglip else "clip"]["image" if key.startswith("vis") else "text"]
    for old, new in (pair[::-1] if reverse else pair for pair in names):
        if old.startswith("."):
            key = key.replace(old, new)
        elif key == old or (old.endswith(".") and key.startswith(old)):
            key = new + key[len(old) :]
    return key
