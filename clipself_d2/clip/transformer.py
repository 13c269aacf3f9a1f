"""What all ViTs share: tokens, blocks with and without attention, masked attention."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.attention import attend
from clipself_d2.clip.dense_modes import DENSE_MODES, DenseMode, guided_weights, neighborhood_scores
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.clip.positions import upper_left
from clipself_d2.clip.tower import ImageTower, TowerFeatures
from clipself_d2.errors import InputError


class TransformerTower(FrozenModules, ImageTower):
    """A ViT, run at any image size.

    Tokens are ``B x (t + h * w) x D``: the class token, if there is one (``t`` is 1 or 0), then patches row by row. A
    family defines how a block computes its queries, keys and values and what follows the attention. No path has
    dropout, drop path or patch dropout.

    The image's embedding is read from the class token, or from the mean over the patches (`mean_pool`), or by an
    attention pool (`clip.attention_pool`).

    Attributes:
        guide: held frozen for the dense modes that need one; see `clip.build_image_tower`.
    """

    dense_modes = tuple(DENSE_MODES)
    guide: nn.Module | None = None
    compiled = ("full_block", "dense_block", "reading_block")  # one graph each for all blocks
    single_scale = True
    mean_pool = False

    # ---- what a family implements ----

    @property
    @abstractmethod
    def patch_embedding(self) -> nn.Module:
        """The convolution from images to ``B x D x h x w`` patches."""

    @property
    @abstractmethod
    def class_token(self) -> Tensor | None:
        """``D`` values (any leading axes of length 1); None if the tower has no class token."""

    @property
    @abstractmethod
    def position_embedding(self) -> Tensor | None:
        """``(t + gh * gw) x D``, or ``gh * gw x D`` for the patches alone; None if there is none."""

    @abstractmethod
    def pre_norm(self, tokens: Tensor) -> Tensor:
        """The layer between the embedding and the first block."""

    @abstractmethod
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """The rotary table of this map, a row for each token; None if the family has no rotary positions."""

    @abstractmethod
    def queries_keys_values(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each ``B x heads x N x d``, from the block's input (its first norm included)."""

    @abstractmethod
    def values(self, block: Any, tokens: Tensor) -> Tensor:
        """The values alone, heads concatenated, ``B x N x D``."""

    @abstractmethod
    def add_attention(self, block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        """``tokens`` (N per image, or one) plus the output projection of ``attended``, ``B x N x D``."""

    @abstractmethod
    def add_mlp(self, block: Any, tokens: Tensor) -> Tensor:
        """The residual stream after the block's MLP."""

    @abstractmethod
    def parts(self, block: Any) -> dict[str, Sequence[nn.Module]]:
        """The modules that are a block's queries ("q"), keys ("k") and MLP ("mlp") alone; see `DenseMode.unread`."""

    @abstractmethod
    def final_norm(self, tokens: Tensor) -> Tensor:
        """The norm between the last block and the pool, ``... x D``."""

    @abstractmethod
    def project_pooled(self, pooled: Tensor) -> Tensor:
        """From the pooled token into CLIP space, ``... x D`` to ``... x C``."""

    @property
    def num_prefix(self) -> int:
        """Number of class tokens, 1 or 0."""
        return int(self.class_token is not None)

    def project(self, tokens: Tensor) -> Tensor:
        """The final norm and the projection into CLIP space of each token alone, ``... x D`` to ``... x C``."""
        return self.project_pooled(self.final_norm(tokens))

    # ---- the three ways through a block ----

    def full_block(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        """The ordinary block."""
        query, key, value = self.queries_keys_values(block, tokens, rotary)
        attended = attend(query, key, value)
        return self.add_mlp(block, self.add_attention(block, tokens, join_heads(attended)))

    def dense_block(
        self, block: Any, tokens: Tensor, rotary: Tensor | None, mode: DenseMode, pairs: Tensor | None
    ) -> Tensor:
        """The block as a dense mode reads it; see `_pairs`."""
        if mode.attention:
            query, key, value = self.queries_keys_values(block, tokens, rotary if mode.rotary else None)
            left = right = {"q": query, "k": key}
            if not mode.scaled:  # undoes the scale of `attend`
                right = {name: side * query.shape[-1] ** 0.5 for name, side in left.items()}
            maps = [attend(left[pair[0]], right[pair[1]], value, pairs) for pair in mode.attention]
            attended = join_heads(torch.stack(maps).sum(0) if len(maps) > 1 else maps[0])
        else:
            attended = self.values(block, tokens)
            attended = attended if pairs is None else pairs.to(attended.dtype) @ attended
        if mode.residual != "token":
            tokens = tokens[:, :1] if mode.residual == "class" else torch.zeros_like(tokens[:, :1])
        tokens = self.add_attention(block, tokens, attended)
        return self.add_mlp(block, tokens) if mode.mlp else tokens

    def reading_block(
        self, block: Any, readers: Tensor, tokens: Tensor, rotary: Tensor | None, visible: Tensor | None
    ) -> Tensor:
        """Readers ``B x R x D`` (class-token copies) attend to the tokens where ``visible``, ``B x R x N``, is true."""
        query, _, _ = self.queries_keys_values(block, readers, None)
        _, key, value = self.queries_keys_values(block, tokens, rotary)
        attended = attend(query, key, value, None if visible is None else visible[:, None])
        return self.add_mlp(block, self.add_attention(block, readers, join_heads(attended)))

    # ---- the tower ----

    def embed(self, images: Tensor, padded_size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens before the first block, and the rotary table; see `ImageTower.features` for the padded size."""
        size, whole = self.map_size(images), self.padded_map_size(images, padded_size)
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            batch = images.shape[0]  # not len: a symbol in exports
            tokens = torch.cat([self.class_token.reshape(1, 1, -1).expand(batch, -1, -1), tokens], dim=1)
        if (table := self.position_embedding) is not None:
            # The positions are fp32 parameters, which keeps the residual stream in fp32 under autocast.
            positions = upper_left(self.tables.position_embedding(table, self.native_grid, whole), whole, size)
            if missing := self.num_prefix + self.native_grid[0] * self.native_grid[1] - len(table):
                positions = F.pad(positions, (0, 0, missing, 0))
            tokens = tokens + positions
        rotary = self.rotary(whole, images.device)
        return self.pre_norm(tokens), None if rotary is None else upper_left(rotary, whole, size)

    def ordinary_tokens(
        self, images: Tensor, blocks: Sequence[int] = (), padded_size: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens after the last block, and after each of some blocks; all blocks are ordinary."""
        full_block, kept = self.checkpointed(self.full_block), {}
        tokens, rotary = self.embed(images, padded_size)
        for i, block in enumerate(self.trainable_units()):
            tokens = full_block(block, tokens, rotary)
            if i in blocks:
                kept[i] = tokens
        return tokens, [kept[i] for i in blocks]

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The embedding of the class token (or of the patches' mean), ``B x C``, not normalized.

        It is open_clip's ``encode_image`` at the native size.
        """
        if self.mean_pool:
            tokens, _ = self.ordinary_tokens(images)
            return self.project_pooled(self.final_norm(tokens)[:, self.num_prefix :].mean(dim=1))
        full_block, reading_block = self.checkpointed(self.full_block), self.checkpointed(self.reading_block)
        tokens, rotary = self.embed(images)
        *blocks, last = self.trainable_units()
        for block in blocks:
            tokens = full_block(block, tokens, rotary)
        # only the class token is read from the last block
        return self.project(reading_block(last, tokens[:, :1], tokens, rotary, None)[:, 0])

    @override
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        self.check_dense_mode(dense_mode)
        self.check_blocks(blocks)
        full_block, dense_block = self.checkpointed(self.full_block), self.checkpointed(self.dense_block)
        tokens, rotary = self.embed(images, padded_size)
        mode, size, maps, read = DENSE_MODES[dense_mode], self.map_size(images), {}, []
        pairs, first = self._pairs(mode, images, size), self.num_prefix
        for i, block in enumerate(self.trainable_units()):
            last = i == self.num_blocks - 1
            if i >= self.num_blocks - mode.num_blocks:
                read.append(dense_block(block, tokens, rotary, mode, pairs))
            tokens = read[-1] if last else full_block(block, tokens, rotary)
            if i in blocks:
                maps[i] = to_map(tokens[:, first:], size)
        tokens = read[-1] if len(read) == 1 else torch.stack(read).sum(0)
        dense = F.normalize(self.project(tokens[:, first:]).float(), dim=-1)
        return TowerFeatures(to_map(dense, size), [maps[i] for i in blocks])

    @override
    def check_dense_mode(self, dense_mode: str) -> None:
        super().check_dense_mode(dense_mode)
        if DENSE_MODES[dense_mode].guided and self.guide is None:
            raise InputError(
                f"dense mode '{dense_mode}' needs a guide: give the tower one, such as "
                "guide='{_target_: clipself_d2.distillation.TimmGuide, name: vit_base_patch8_224.dino, size: 448}'"
            )

    def _pairs(self, mode: DenseMode, images: Tensor, size: tuple[int, int]) -> Tensor | None:
        """What a mode has for all pairs of tokens: scores, which are added to its own, or a guide's weights."""
        if mode.guided:
            assert self.guide is not None  # see check_dense_mode
            with torch.no_grad():
                weights = guided_weights(self.guide(images * self.pixel_std + self.pixel_mean), size)
            return F.pad(weights, (self.num_prefix, 0, self.num_prefix, 0))
        if not mode.neighborhood:
            return None
        key = ("neighborhood", mode.neighborhood, size, images.device)
        table = self.tables.get(key, lambda: neighborhood_scores(size, mode.neighborhood, images.device))
        return table if self.num_prefix else table[1:, 1:]

    @override
    def unread_parts(self, dense_mode: str) -> set[str]:
        return DENSE_MODES[dense_mode].unread

    @override
    def unread_parameters(self, dense_mode: str) -> list[nn.Parameter]:
        unread, parts = self.unread_parts(dense_mode), self.parts(self.trainable_units()[-1])
        return [p for name in unread & parts.keys() for module in parts[name] for p in module.parameters()]

    def queries(self, maps: Tensor) -> Tensor:
        """The last block's queries, heads concatenated, without rotary positions.

        Args:
            maps: ``B x D x h x w``, the features of the block before it; see `features`.

        Returns:
            ``B x D x h x w``.
        """
        queries, _, _ = self.queries_keys_values(self.trainable_units()[-1], maps.flatten(2).transpose(1, 2), None)
        return to_map(join_heads(queries), (maps.shape[-2], maps.shape[-1]))

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings`.

        As in the released code, one copy of the class token per region enters the first block and passes through every
        block. It attends to the image's class token and to the patches of its region, not to itself; nothing attends to
        it. An empty region therefore sees the class token alone.

        A tower that reads the patches' mean reads the mean over the region's patches; over all for an empty region.
        """
        if self.mean_pool:
            return self._region_means(images, masks)
        full_block, reading_block = self.checkpointed(self.full_block), self.checkpointed(self.reading_block)
        visible = self.stack_masks(masks, images)
        tokens, rotary = self.embed(images)
        readers = tokens[:, :1].expand(-1, visible.shape[1], -1)
        for i, block in enumerate(self.trainable_units()):
            readers = reading_block(block, readers, tokens, rotary, visible)
            if i < self.num_blocks - 1:
                tokens = full_block(block, tokens, rotary)
        embeddings = self.project(readers)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]

    def _region_means(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        visible = self.stack_masks(masks, images)[..., 1:]
        weights = (visible | ~visible.any(dim=-1, keepdim=True)).float()
        tokens, _ = self.ordinary_tokens(images)
        patches = self.final_norm(tokens)[:, self.num_prefix :]
        embeddings = self.project_pooled(weights / weights.sum(dim=-1, keepdim=True) @ patches)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]


def join_heads(x: Tensor) -> Tensor:
    """``B x heads x N x d`` to ``B x N x D``."""
    return x.transpose(1, 2).flatten(2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """``B x h * w x D`` to ``B x D x h x w``."""
    return tokens.transpose(1, 2).unflatten(2, size)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Cast activations that several matrix products read to autocast's dtype, once."""
    device = x.device.type
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x
