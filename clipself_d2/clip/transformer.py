"""What the plain ViT and EVA-02 share: tokens, blocks with and without attention, masked attention."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.attention import attend
from clipself_d2.clip.positions import TableCache, upper_left
from clipself_d2.clip.tower import ImageTower, TowerFeatures


class TransformerTower(ImageTower):
    """A pre-norm ViT with a class token, run at any image size.

    Tokens are ``B x (1 + h * w) x D``, the class token first, patches row by row. A family says how a block makes its
    queries, keys and values and what follows the attention; every path below is built on these five steps.
    There is no dropout, drop path or patch dropout in any path.
    """

    def __init__(
        self,
        visual: nn.Module,
        *,
        native_grid: tuple[int, int],
        stride: int,
        embed_dim: int,
        num_blocks: int,
        block_dim: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(
            visual,
            stride=stride,
            embed_dim=embed_dim,
            native_size=native_grid[0] * stride,
            num_blocks=num_blocks,
            block_dim=block_dim,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.native_grid = native_grid
        self.tables = TableCache()

    # ---- the family's part ----

    @property
    @abstractmethod
    def patch_embedding(self) -> nn.Module:
        """The convolution from images to ``B x D x h x w`` patches."""

    @property
    @abstractmethod
    def class_token(self) -> Tensor:
        """``D`` values (any leading axes of length 1)."""

    @property
    @abstractmethod
    def position_embedding(self) -> Tensor:
        """``(1 + gh * gw) x D``."""

    @abstractmethod
    def pre_norm(self, tokens: Tensor) -> Tensor:
        """What stands between the embedding and the first block."""

    @abstractmethod
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """The rotary table of this map, or None for a family without."""

    @abstractmethod
    def queries_keys_values(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each ``B x heads x N x d``, from the block's input (its first norm included)."""

    @abstractmethod
    def values(self, block: Any, tokens: Tensor) -> Tensor:
        """The values alone with their heads side by side, ``B x N x D``."""

    @abstractmethod
    def add_attention(self, block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        """The residual stream after the attention, whose heads lie side by side in ``attended``, ``B x N x D``."""

    @abstractmethod
    def add_mlp(self, block: Any, tokens: Tensor) -> Tensor:
        """The residual stream after the block's second half."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """The final norm and the projection into CLIP space, ``... x D`` to ``... x C``."""

    # ---- the three ways through a block ----

    def full_block(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        """The ordinary block."""
        query, key, value = self.queries_keys_values(block, tokens, rotary)
        attended = attend(query, key, value)
        return self.add_mlp(block, self.add_attention(block, tokens, _join_heads(attended)))

    def value_block(self, block: Any, tokens: Tensor) -> Tensor:
        """The block without attention: every token keeps its own value (paper, section 3.1)."""
        return self.add_mlp(block, self.add_attention(block, tokens, self.values(block, tokens)))

    def reading_block(
        self, block: Any, readers: Tensor, tokens: Tensor, rotary: Tensor | None, seen: Tensor | None
    ) -> Tensor:
        """Readers ``B x R x D`` (class-token copies) look at the tokens where ``seen``, ``B x R x N``, is true."""
        query, _, _ = self.queries_keys_values(block, readers, None)
        _, key, value = self.queries_keys_values(block, tokens, rotary)
        attended = attend(query, key, value, None if seen is None else seen[:, None])
        return self.add_mlp(block, self.add_attention(block, readers, _join_heads(attended)))

    # ---- the tower ----

    def embed(self, images: Tensor, padded_size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens before the first block, and the rotary table; see `ImageTower.features` for the padded size."""
        size, whole = self.map_size(images), self.padded_map_size(images, padded_size)
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.reshape(1, 1, -1).expand(len(images), -1, -1), patches], dim=1)
        # the positions are fp32 parameters, so under autocast the residual stream is fp32 too
        positions = self.tables.position_embedding(self.position_embedding, self.native_grid, whole)
        tokens = tokens + upper_left(positions, whole, size)
        rotary = self.rotary(whole, images.device)
        return self.pre_norm(tokens), None if rotary is None else upper_left(rotary, whole, size)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The projected class token, ``B x C``, not normalised; open_clip's ``encode_image`` at the native size."""
        tokens, rotary = self.embed(images)
        *blocks, last = self.trainable_units()
        for block in blocks:
            tokens = self.run_unit(self.full_block, block, tokens, rotary)
        # only the class token is read from the last block
        pooled = self.run_unit(self.reading_block, last, tokens[:, :1], tokens, rotary, None)
        return self.project(pooled[:, 0])

    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        """See `ImageTower.features`."""
        tokens, maps = self._forward_blocks(images, blocks, dense_mode, self.num_blocks, padded_size)
        dense = F.normalize(self.project(tokens[:, 1:]).float(), dim=-1)
        return TowerFeatures(_to_map(dense, self.map_size(images)), maps)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """See `ImageTower.block_features`."""
        return self._forward_blocks(images, blocks, "no_attn", max(blocks, default=-1) + 1)[1]

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings`.

        As in the released code: one copy of the class token a region enters the first block and passes through every
        block; it attends to the image's class token and to the patches of its region, not to itself; nothing attends to
        it. An empty region so sees the class token alone.
        """
        seen = self.stack_masks(masks, images)
        tokens, rotary = self.embed(images)
        readers = tokens[:, :1].expand(-1, seen.shape[1], -1)
        for i, block in enumerate(self.trainable_units()):
            readers = self.run_unit(self.reading_block, block, readers, tokens, rotary, seen)
            if i < self.num_blocks - 1:
                tokens = self.run_unit(self.full_block, block, tokens, rotary)
        embeddings = self.project(readers)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]

    def _forward_blocks(
        self, images: Tensor, wanted: Sequence[int], dense_mode: str, stop: int, padded_size: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        self.check_dense_mode(dense_mode)
        self.check_blocks(wanted)
        tokens, rotary = self.embed(images, padded_size)
        maps: dict[int, Tensor] = {}
        for i, block in enumerate(self.trainable_units()[:stop]):
            if dense_mode == "no_attn" and i == self.num_blocks - 1:
                tokens = self.run_unit(self.value_block, block, tokens)
            else:
                tokens = self.run_unit(self.full_block, block, tokens, rotary)
            if i in wanted:
                maps[i] = _to_map(tokens[:, 1:], self.map_size(images))
        return tokens, [maps[i] for i in wanted]


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Activations that several matrix products read, cast once to what autocast multiplies in."""
    device = x.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x
