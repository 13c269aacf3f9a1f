"""timm's ViTs inside open_clip's TimmModel: EVA01, EVA-02-CLIP with E/14, MobileCLIP B and L/14, ViTamin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.layers import Attention, AttentionRope, HybridEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.dense_modes import DENSE_MODES
from clipself_d2.clip.positions import rotary_table, rotate
from clipself_d2.clip.split_projections import fuse_projection, split_projection
from clipself_d2.clip.transformer import TransformerTower, cast_for_autocast


class TimmTower(TransformerTower):
    """An image tower on timm's `VisionTransformer` or `Eva`, which reads its class token or the mean of its patches.

    Blocks may have their norms before or after attention and MLP (EVA02-E), queries, keys and values in one matrix or
    three, an inner norm, layer scale, any MLP, rotary positions. Patches may come from a convolutional stem, whose
    batch norms always use their stored statistics.

    Args:
        visual: open_clip's `TimmModel` around the trunk.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.
    """

    visual: TimmModel

    def __init__(self, visual: TimmModel, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        trunk: Any = visual.trunk
        projections = [layer for layer in (trunk.head, *visual.head) if isinstance(layer, nn.Linear)]
        super().__init__(
            visual,
            stride=trunk.patch_embed.feat_ratio(),
            embed_dim=projections[-1].out_features if projections else trunk.embed_dim,
            native_grid=trunk.patch_embed.grid_size,
            num_blocks=len(trunk.blocks),
            block_dim=trunk.embed_dim,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.mean_pool = trunk.global_pool == "avg"
        if not self.num_prefix:
            self.dense_modes = tuple(name for name in self.dense_modes if DENSE_MODES[name].residual != "class")

    @classmethod
    @override
    def matches(cls, visual: Any) -> bool:
        return is_timm_vit(visual) and visual.trunk.global_pool in ("token", "avg")

    def train(self, mode: bool = True) -> TimmTower:
        """Training mode for all but a convolutional stem."""
        super().train(mode)
        self.visual.trunk.patch_embed.eval()
        return self

    @property
    @override
    def patch_embedding(self) -> nn.Module:
        embed: Any = self.visual.trunk.patch_embed
        return embed.backbone if isinstance(embed, HybridEmbed) else embed.proj

    @property
    @override
    def class_token(self) -> Tensor | None:
        return self.visual.trunk.cls_token

    @property
    @override
    def position_embedding(self) -> Tensor | None:
        table = self.visual.trunk.pos_embed
        return None if table is None else table[0]

    @override
    def pre_norm(self, tokens: Tensor) -> Tensor:
        return self.visual.trunk.norm_pre(tokens)

    @override
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        rope = getattr(self.visual.trunk, "rope", None)
        if rope is None:
            return None

        def build() -> Tensor:
            table = rotary_table(size, rope.dim, rope.ref_feat_shape, device, rope.grid_offset, rope.grid_indexing)
            return table[1 - self.num_prefix :]

        return self.tables.get(("rotary", size, device), build)

    @override
    def trainable_units(self) -> Sequence[nn.Module]:
        return self.visual.trunk.blocks

    @override
    def parts(self, block: Any) -> dict[str, Sequence[nn.Module]]:
        scale = [block.ls2] if isinstance(block, Block) else []
        parts: dict[str, Sequence[nn.Module]] = {"mlp": [block.norm2, block.mlp, *scale]}
        if not _is_fused(block.attn):
            parts |= {"q": [block.attn.q_proj], "k": [block.attn.k_proj]}
        return parts

    @override
    def query_value_weights(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        weights = []
        for block in self.trainable_units():
            attention: Any = block.attn
            if _is_fused(attention):
                query, _, value = split_projection(attention.qkv, "weight")
            else:
                query, value = attention.q_proj.weight, attention.v_proj.weight
            weights.append((query, value))
        return weights

    @override
    def fuse_projections(self) -> None:
        for block in self.trainable_units():
            attention: Any = block.attn
            if _is_fused(attention):
                fuse_projection(attention.qkv, "weight")

    @override
    def queries_keys_values(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        attention, tokens = block.attn, cast_for_autocast(_norm_before(block, tokens))
        joined = F.linear(tokens, *_projections(attention))
        query, key, value = joined.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return query, key, value

    @override
    def values(self, block: Any, tokens: Tensor) -> Tensor:
        attention, tokens = block.attn, _norm_before(block, tokens)
        if not _is_fused(attention):
            return attention.v_proj(tokens)
        weight, bias = _projections(attention)
        return F.linear(tokens, weight.chunk(3)[2], None if bias is None else bias.chunk(3)[2])

    @override
    def add_attention(self, block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        attended = block.attn.proj(block.attn.norm(attended))
        if isinstance(block, EvaBlockPostNorm):
            return tokens + block.norm1(attended)
        return tokens + (block.ls1(attended) if isinstance(block, Block) else attended)

    @override
    def add_mlp(self, block: Any, tokens: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return tokens + block.norm2(block.mlp(tokens))
        changed = block.mlp(cast_for_autocast(block.norm2(tokens)))
        return tokens + (block.ls2(changed) if isinstance(block, Block) else changed)

    @override
    def final_norm(self, tokens: Tensor) -> Tensor:
        return self.visual.trunk.norm(tokens)

    @override
    def project_pooled(self, pooled: Tensor) -> Tensor:
        trunk: Any = self.visual.trunk
        return self.visual.head(trunk.head(trunk.fc_norm(pooled)))


def is_timm_vit(visual: Any) -> bool:
    """Whether an open_clip visual module has a timm trunk that computes what `TimmTower` computes before its pool."""
    if not isinstance(visual, TimmModel) or type(visual.trunk) not in (Eva, VisionTransformer):
        return False
    trunk: Any = visual.trunk
    rope = getattr(trunk, "rope", None)
    return (
        trunk.num_prefix_tokens == (trunk.cls_token is not None)
        and (rope is None or (type(rope) is RotaryEmbeddingCat and rope.ref_feat_shape is not None))
        and all(
            type(block) in (Block, EvaBlock, EvaBlockPostNorm)
            and getattr(block, "gamma_1", None) is None
            and type(block.attn) in (Attention, AttentionRope, EvaAttention)
            and isinstance(block.attn.q_norm, nn.Identity)
            and getattr(block.attn, "gate", None) is None
            and not getattr(block.attn, "rotate_half", False)
            for block in trunk.blocks
        )
    )


def _is_fused(attention: Any) -> bool:
    return getattr(attention, "q_proj", None) is None


def _projections(attention: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of queries, keys and values in one product, which keeps a GPU busier than three.

    EVA's keys have no bias; its parameters stay apart, as they are in checkpoints.
    """
    if not _is_fused(attention):
        layers = attention.q_proj, attention.k_proj, attention.v_proj
        biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
        return torch.cat([layer.weight for layer in layers]), torch.cat(biases)
    if getattr(attention, "q_bias", None) is None:
        return attention.qkv.weight, attention.qkv.bias
    return attention.qkv.weight, torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])


def _norm_before(block: Any, tokens: Tensor) -> Tensor:
    return tokens if isinstance(block, EvaBlockPostNorm) else block.norm1(tokens)
