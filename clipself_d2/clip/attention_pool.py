"""ViTs whose attention pool embeds the image: SigLIP, SigLIP2 and the Perception Encoder (timm), CoCa (open_clip)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.attention import attend
from clipself_d2.clip.timm_vit import TimmTower, is_timm_vit
from clipself_d2.clip.tower import TowerFeatures
from clipself_d2.clip.transformer import TransformerTower, join_heads, to_map
from clipself_d2.clip.vit import ViTTower


class AttentionPoolTower(TransformerTower):
    """A ViT with an attention pool.

    All blocks are ordinary in every mode; the pool makes the difference.

    * image embedding: the pool's latent query attends to all tokens.
    * dense ``"no_attn"``: each patch goes through the pool's values, output projection and MLP alone.
    * dense ``"full"``: each patch is a query of the pool. (CoCa's queries are of another width; it has no such mode.)
    * masked: the latent query attends to the class token, if there is one, and to the patches of the region; to all
      patches if it would see nothing.
    """

    dense_modes: tuple[str, ...] = ("no_attn", "full")

    # ---- what a family implements ----

    @abstractmethod
    def pool_query(self, tokens: Tensor | None) -> Tensor:
        """The pool's queries of some tokens, ``B x N x P``, or its latent query, ``1 x 1 x P``."""

    @abstractmethod
    def pool_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each ``B x N x P``, from the last block's tokens."""

    @property
    @abstractmethod
    def pool_heads(self) -> int:
        """Number of heads of the pool."""

    # ---- the tower ----

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The attention pool's output, ``B x C``, not normalized; open_clip's ``encode_image`` at the native size."""
        tokens, _ = self.ordinary_tokens(images)
        return self._pool(self.pool_query(None).expand(len(tokens), -1, -1), tokens)[:, 0]

    @override
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        self.check_dense_mode(dense_mode)
        self.check_blocks(blocks)
        tokens, outputs = self.ordinary_tokens(images, blocks, padded_size)
        first, size = self.num_prefix, self.map_size(images)
        patches = tokens[:, first:]
        if dense_mode == "full":
            dense = self._pool(self.pool_query(patches), tokens)
        else:
            dense = self.project_pooled(self.pool_keys_values(patches)[1])
        dense = F.normalize(dense.float(), dim=-1)
        return TowerFeatures(to_map(dense, size), [to_map(output[:, first:], size) for output in outputs])

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings` and the class."""
        visible = self.stack_masks(masks, images)[..., 1 - self.num_prefix :]
        visible = visible | ~visible.any(dim=-1, keepdim=True)
        tokens, _ = self.ordinary_tokens(images)
        embeddings = self._pool(self.pool_query(None).expand(*visible.shape[:2], -1), tokens, visible)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]

    @override
    def unread_parts(self, dense_mode: str) -> set[str]:
        return set()

    def _pool(self, queries: Tensor, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """Queries ``B x R x P`` attend to the last block's tokens where ``visible``, ``B x R x N``, is true."""
        pairs = (queries, *self.pool_keys_values(tokens))
        query, key, value = (x.unflatten(-1, (self.pool_heads, -1)).transpose(1, 2) for x in pairs)
        attended = attend(query, key, value, None if visible is None else visible[:, None])
        return self.project_pooled(join_heads(attended))


class TimmPoolTower(AttentionPoolTower, TimmTower):
    """An image tower on timm's `VisionTransformer` (SigLIP) or `Eva` (Perception Encoder) with timm's attention pool.

    Args:
        visual: open_clip's `TimmModel` around the trunk.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.
    """

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        pool = getattr(getattr(visual, "trunk", None), "attn_pool", None)
        return (
            is_timm_vit(visual)
            and isinstance(pool, AttentionPoolLatent)
            and pool.pos_embed is None
            and pool.latent_len == 1
            and isinstance(pool.q_norm, nn.Identity)
        )

    @override
    def pool_query(self, tokens: Tensor | None) -> Tensor:
        pool: Any = self.visual.trunk.attn_pool
        return pool.q(pool.latent if tokens is None else self.final_norm(tokens))

    @override
    def pool_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.visual.trunk.attn_pool.kv(self.final_norm(tokens)).chunk(2, dim=-1)
        return key, value

    @property
    @override
    def pool_heads(self) -> int:
        return self.visual.trunk.attn_pool.num_heads

    @override
    def project_pooled(self, pooled: Tensor) -> Tensor:
        pool: Any = self.visual.trunk.attn_pool
        pooled = pool.proj(pooled)
        return super().project_pooled(pooled if pool.mlp is None else pooled + pool.mlp(pool.norm(pooled)))


class CoCaTower(AttentionPoolTower, ViTTower):
    """CoCa's image tower: open_clip's `VisionTransformer` with a pool of many queries, the first of which embeds.

    Args:
        visual: a ViT with an attentional pool of one kind of queries, and open_clip's default blocks.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.
    """

    dense_modes = ("no_attn",)

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        return (
            isinstance(visual, VisionTransformer)
            and visual.attn_pool is not None
            and visual.attn_pool_contrastive is None
            and visual.pool_type == "tok"
        )

    @override
    def pool_query(self, tokens: Tensor | None) -> Tensor:
        pool: Any = self.visual.attn_pool
        return F.linear(pool.ln_q(pool.query)[None, :1], *self._pool_projections()[0])

    @override
    def pool_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        _, key, value = self._pool_projections()
        tokens = self.visual.attn_pool.ln_k(tokens)
        return F.linear(tokens, *key), F.linear(tokens, *value)

    @property
    @override
    def pool_heads(self) -> int:
        return self.visual.attn_pool.attn.num_heads

    @override
    def project_pooled(self, pooled: Tensor) -> Tensor:
        return self.visual.ln_post(self.visual.attn_pool.attn.out_proj(pooled)) @ self.visual.proj

    def _pool_projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of queries, keys and values; one matrix where tokens and queries are of one width."""
        pool: Any = self.visual.attn_pool.attn
        weights = (pool.q_proj_weight, pool.k_proj_weight, pool.v_proj_weight)
        fused = pool.in_proj_weight
        return list(zip(weights if fused is None else fused.chunk(3), pool.in_proj_bias.chunk(3), strict=True))
