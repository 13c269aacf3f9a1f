"""SigLIP and SigLIP2: timm's ViT without a class token, inside open_clip's TimmModel; an attention pool embeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.attention import attend
from clipself_d2.clip.positions import upper_left
from clipself_d2.clip.tower import ImageTower, TowerFeatures
from clipself_d2.errors import InputError


class SigLIPTower(ImageTower):
    """An image tower on timm's `VisionTransformer` with an attention pool.

    All blocks are ordinary in every mode; the pool makes the difference.

    * image embedding: the pool's latent query attends to all patches.
    * dense ``"no_attn"``: each patch goes through the pool's values, output projection and MLP alone.
    * dense ``"full"``: each patch is a query of the pool.
    * masked: the latent query attends to the patches of the region; to all patches if the region has none.

    Args:
        visual: open_clip's `TimmModel` around a SigLIP trunk.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.

    Raises:
        InputError: a trunk of another build.
    """

    visual: TimmModel
    single_scale = True

    def __init__(self, visual: TimmModel, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        trunk = visual.trunk
        if trunk.num_prefix_tokens or len(visual.head) or trunk.attn_pool.pos_embed is not None:
            raise InputError("this timm trunk is not SigLIP: it has prefix tokens, a head, or positions in its pool")
        super().__init__(
            visual,
            stride=trunk.patch_embed.patch_size[0],
            embed_dim=trunk.attn_pool.out_features,
            native_grid=trunk.patch_embed.grid_size,
            num_blocks=len(trunk.blocks),
            block_dim=trunk.embed_dim,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        return (
            isinstance(visual, TimmModel)
            and isinstance(visual.trunk, VisionTransformer)
            and isinstance(visual.trunk.attn_pool, AttentionPoolLatent)
        )

    @override
    def trainable_units(self) -> Sequence[nn.Module]:
        return self.visual.trunk.blocks

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The attention pool's output, ``B x C``, not normalized; open_clip's ``encode_image`` at the native size."""
        tokens = self._blocks(images)[-1]
        return self._pool(self._latent(tokens), tokens)[:, 0]

    @override
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        self.check_dense_mode(dense_mode)
        self.check_blocks(blocks)
        outputs = self._blocks(images, padded_size)
        pool, tokens = self.visual.trunk.attn_pool, outputs[-1]
        if dense_mode == "full":
            dense = self._pool(pool.q(self.visual.trunk.norm(tokens)), tokens)
        else:
            weight, bias = pool.kv.weight.chunk(2)[1], pool.kv.bias.chunk(2)[1]
            dense = self._project(F.linear(self.visual.trunk.norm(tokens), weight, bias))
        dense = F.normalize(dense.float(), dim=-1)
        size = self.map_size(images)
        dense, *maps = (x.transpose(1, 2).unflatten(2, size) for x in (dense, *(outputs[i] for i in blocks)))
        return TowerFeatures(dense, maps)

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings` and the class."""
        visible = self.stack_masks(masks, images)[..., 1:]
        visible = visible | ~visible.any(dim=-1, keepdim=True)
        tokens = self._blocks(images)[-1]
        embeddings = self._pool(self._latent(tokens).expand(-1, visible.shape[1], -1), tokens, visible)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]

    def _blocks(self, images: Tensor, padded_size: int | None = None) -> list[Tensor]:
        """Each block's output, ``B x h * w x D``."""
        trunk, size, whole = self.visual.trunk, self.map_size(images), self.padded_map_size(images, padded_size)
        positions = self.tables.position_embedding(trunk.pos_embed[0], self.native_grid, whole)
        patches = trunk.patch_embed.proj(images).flatten(2).transpose(1, 2)
        tokens = trunk.norm_pre(patches + upper_left(positions, whole, size))
        outputs = []
        for block in self.trainable_units():
            tokens = self.checkpointed(block)(tokens)
            outputs.append(tokens)
        return outputs

    def _latent(self, tokens: Tensor) -> Tensor:
        pool = self.visual.trunk.attn_pool
        return pool.q(pool.latent.expand(len(tokens), -1, -1))

    def _pool(self, queries: Tensor, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """Queries ``B x R x D`` attend to the last block's tokens where ``visible``, ``B x R x N``, is true."""
        pool = self.visual.trunk.attn_pool
        pairs = (queries, *pool.kv(self.visual.trunk.norm(tokens)).chunk(2, dim=-1))
        query, key, value = (x.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for x in pairs)
        mask = None if visible is None else visible[:, None]
        attended = attend(pool.q_norm(query), pool.k_norm(key), value, mask)
        return self._project(attended.transpose(1, 2).flatten(2))

    def _project(self, pooled: Tensor) -> Tensor:
        pool = self.visual.trunk.attn_pool
        pooled = pool.proj(pooled)
        return pooled if pool.mlp is None else pooled + pool.mlp(pool.norm(pooled))
