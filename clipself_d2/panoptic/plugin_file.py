"""The file that `standalone/clipself_dense.py` reads: an image tower and the text embeddings of class names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.layers import SwiGLU
from torch import Tensor, nn

from clipself_d2.clip import ImageTower, TextTower
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.formats import uses_quick_gelu
from clipself_d2.clip.timm_vit import TimmTower
from clipself_d2.clip.vit import ViTTower
from clipself_d2.errors import InputError
from clipself_d2.panoptic.standalone.clipself_dense import FORMAT
from clipself_d2.vocabulary import TextClassifier


def save_plugin_file(
    path: str | Path, tower: ImageTower, text_tower: TextTower, names: Sequence[str], templates: str | Sequence[str]
) -> None:
    """Write a tower and text embeddings under one set of names for all families.

    Args:
        path: ends in ``.safetensors``.
        tower: a plain ViT or EVA-02.
        text_tower: of the same CLIP.
        names: class names, each its own embedding; a class later scores as its best synonym.
        templates: see `vocabulary.TextClassifier`.

    Raises:
        InputError: a tower of another family; see `TextClassifier` too.
        OSError: the disk.
    """
    if isinstance(tower, TimmTower) and _is_eva02(tower):
        layers, config = dict(_eva_layers(tower)), {"activation": "swiglu", "eps": tower.visual.trunk.norm.eps}
        heads, rotary_grid = tower.visual.trunk.blocks[0].attn.num_heads, list(tower.visual.trunk.rope.ref_feat_shape)
    elif type(tower) is ViTTower:
        activation = "quick_gelu" if uses_quick_gelu(tower) else "gelu"
        layers, config = dict(_vit_layers(tower)), {"activation": activation, "eps": tower.visual.ln_post.eps}
        heads, rotary_grid = tower.visual.transformer.resblocks[0].attn.num_heads, None
    else:
        raise InputError(f"{type(tower).__name__} cannot be exported for a plug-in: use open_clip's ViT or EVA-02-CLIP")
    config |= {
        "heads": heads,
        "blocks": tower.num_blocks,
        "native_grid": list(tower.native_grid),
        "rotary_grid": rotary_grid,
        "mean": tower.pixel_mean.flatten().tolist(),
        "std": tower.pixel_std.flatten().tolist(),
    }
    tensors: dict[str, Any] = {
        "class_token": None if tower.class_token is None else tower.class_token.reshape(-1),
        "positions": tower.position_embedding,
        "logit_scale": text_tower.logit_scale,
        "text": TextClassifier(text_tower, templates, synonyms="max")(names),
    }
    for name, (weight, bias) in layers.items():
        tensors |= {f"{name}.weight": weight} if bias is None else {f"{name}.weight": weight, f"{name}.bias": bias}
    content = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "config": json.dumps(config), "names": json.dumps(list(names))}
    write_atomically(Path(path), lambda file: save_file(content, file, metadata=metadata))


_Layer = tuple[str, tuple[Tensor, Tensor | None]]


def _vit_layers(tower: ViTTower) -> Iterator[_Layer]:
    visual: Any = tower.visual
    yield "patch", _weights(visual.conv1)
    if not isinstance(visual.ln_pre, nn.Identity):
        yield "pre_norm", _weights(visual.ln_pre)
    for number, block in enumerate(visual.transformer.resblocks):
        projections = zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True)
        for part, (weight, bias) in zip("qkv", projections, strict=True):
            yield f"blocks.{number}.{part}", (weight, bias)
        for part, layer in (("norm1", block.ln_1), ("norm2", block.ln_2), ("fc1", block.mlp.c_fc)):
            yield f"blocks.{number}.{part}", _weights(layer)
        for part, layer, scale in (("out", block.attn.out_proj, block.ls_1), ("fc2", block.mlp.c_proj, block.ls_2)):
            weight, bias = _weights(layer)
            if not isinstance(scale, nn.Identity):
                weight, bias = scale.gamma[:, None] * weight, scale.gamma * bias
            yield f"blocks.{number}.{part}", (weight, bias)
    yield "norm", _weights(visual.ln_post)
    yield "head", (visual.proj.T, None)


def _is_eva02(tower: TimmTower) -> bool:
    trunk: Any = tower.visual.trunk
    rotary, block = getattr(trunk, "rope", None), trunk.blocks[0]
    return rotary is not None and isinstance(block.mlp, SwiGLU) and not isinstance(block.attn.norm, nn.Identity)


def _eva_layers(tower: TimmTower) -> Iterator[_Layer]:
    trunk: Any = tower.visual.trunk
    yield "patch", _weights(trunk.patch_embed.proj)
    for number, block in enumerate(trunk.blocks):
        attention, mlp = block.attn, block.mlp
        layers = {"norm1": block.norm1, "q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}
        layers |= {"attention_norm": attention.norm, "out": attention.proj, "norm2": block.norm2}
        layers |= {"gate": mlp.fc1_g, "fc1": mlp.fc1_x, "mlp_norm": mlp.norm, "fc2": mlp.fc2}
        for part, layer in layers.items():
            yield f"blocks.{number}.{part}", _weights(layer)
    yield "norm", _weights(trunk.norm)
    yield "head", _weights(trunk.head)


def _weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    return layer.weight, layer.bias
