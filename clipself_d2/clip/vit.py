"""The plain CLIP ViT: open_clip's VisionTransformer (OpenAI, LAION, CLIPA, the miniature)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.split_projections import fuse_projection, split_projection
from clipself_d2.clip.transformer import TransformerTower
from clipself_d2.errors import InputError


class ViTTower(TransformerTower):
    """An image tower on open_clip's `VisionTransformer`.

    Args:
        visual: a ViT with open_clip's default blocks, whose class token or patches' mean (CLIPA) is the embedding.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.

    Raises:
        InputError: no pooling, custom blocks, or patches that are not square.
    """

    visual: VisionTransformer

    def __init__(self, visual: VisionTransformer, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        blocks = visual.transformer.resblocks
        if visual.pool_type not in ("tok", "avg"):
            raise InputError(f"this ViT's pool_type is '{visual.pool_type}': use one that pools its tokens, tok or avg")
        if not all(type(block) is ResidualAttentionBlock for block in blocks):
            raise InputError(
                "this ViT has custom attention blocks (block_type): only open_clip's default block is known"
            )
        if visual.patch_size[0] != visual.patch_size[1]:
            raise InputError(f"patches of {visual.patch_size} pixels: patches must be square")
        super().__init__(
            visual,
            stride=visual.patch_size[0],
            embed_dim=visual.output_dim,
            native_grid=visual.grid_size,
            num_blocks=len(blocks),
            block_dim=visual.transformer.width,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.mean_pool = visual.pool_type == "avg"

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        return isinstance(visual, VisionTransformer) and visual.attn_pool is None

    @property
    @override
    def patch_embedding(self) -> nn.Module:
        return self.visual.conv1

    @property
    @override
    def class_token(self) -> Tensor:
        return self.visual.class_embedding

    @property
    @override
    def position_embedding(self) -> Tensor:
        return self.visual.positional_embedding

    @override
    def pre_norm(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_pre(tokens)

    @override
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        return None

    @override
    def trainable_units(self) -> Sequence[nn.Module]:
        return self.visual.transformer.resblocks

    @override
    def parts(self, block: Any) -> dict[str, Sequence[nn.Module]]:
        return {"mlp": [block.ln_2, block.mlp, block.ls_2]}  # queries and keys share a matrix with the values

    @override
    def query_value_weights(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        blocks: Any = self.trainable_units()
        parts = [split_projection(block.attn, "in_proj_weight") for block in blocks]
        return [(query, value) for query, _, value in parts]

    @override
    def fuse_projections(self) -> None:
        blocks: Any = self.trainable_units()
        for block in blocks:
            fuse_projection(block.attn, "in_proj_weight")

    @override
    def queries_keys_values(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        fused = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        query, key, value = fused.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    @override
    def values(self, block: Any, tokens: Tensor) -> Tensor:
        weight, bias = block.attn.in_proj_weight.chunk(3)[2], block.attn.in_proj_bias.chunk(3)[2]
        return F.linear(block.ln_1(tokens), weight, bias)

    @override
    def add_attention(self, block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        return tokens + block.ls_1(block.attn.out_proj(attended))

    @override
    def add_mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))

    @override
    def final_norm(self, tokens: Tensor) -> Tensor:
        return tokens if self.visual.final_ln_after_pool else self.visual.ln_post(tokens)

    @override
    def project_pooled(self, pooled: Tensor) -> Tensor:
        return (self.visual.ln_post(pooled) if self.visual.final_ln_after_pool else pooled) @ self.visual.proj
