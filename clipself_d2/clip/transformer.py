"""What the plain ViT and EVA-02 share: tokens, blocks with and without attention, masked attention."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.attention import attend
from clipself_d2.clip.dense_modes import DENSE_MODES, DenseMode, neighborhood_scores
from clipself_d2.clip.positions import upper_left
from clipself_d2.clip.tower import ImageTower, TowerFeatures


class TransformerTower(ImageTower):
    """A pre-norm ViT with a class token, run at any image size.

    Tokens are ``B x (1 + h * w) x D``, the class token first, patches row by row. A family defines how a block computes
    its queries, keys and values and what follows the attention. No path has dropout, drop path or patch dropout.
    """

    dense_modes = tuple(DENSE_MODES)
    single_scale = True

    # ---- what a family implements ----

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
        """The layer between the embedding and the first block."""

    @abstractmethod
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """The rotary table of this map; None if the family has no rotary positions."""

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
    def project(self, tokens: Tensor) -> Tensor:
        """The final norm and the projection into CLIP space, ``... x D`` to ``... x C``."""

    # ---- the three ways through a block ----

    def full_block(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> Tensor:
        """The ordinary block."""
        query, key, value = self.queries_keys_values(block, tokens, rotary)
        attended = attend(query, key, value)
        return self.add_mlp(block, self.add_attention(block, tokens, _join_heads(attended)))

    def dense_block(
        self, block: Any, tokens: Tensor, rotary: Tensor | None, mode: DenseMode, nearby: Tensor | None
    ) -> Tensor:
        """The block as a dense mode reads it; ``nearby`` is added to the scores."""
        if mode.attention:
            query, key, value = self.queries_keys_values(block, tokens, rotary if mode.rotary else None)
            left = right = {"q": query, "k": key}
            if not mode.scaled:  # undoes the scale of `attend`
                right = {name: side * query.shape[-1] ** 0.5 for name, side in left.items()}
            maps = [attend(left[pair[0]], right[pair[1]], value, nearby) for pair in mode.attention]
            attended = _join_heads(torch.stack(maps).sum(0) if len(maps) > 1 else maps[0])
        else:
            attended = self.values(block, tokens)
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
        return self.add_mlp(block, self.add_attention(block, readers, _join_heads(attended)))

    # ---- the tower ----

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the three ways through a block, each once for all blocks; see `ImageTower.compile`."""
        for name in ("full_block", "dense_block", "reading_block"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def embed(self, images: Tensor, padded_size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens before the first block, and the rotary table; see `ImageTower.features` for the padded size."""
        size, whole = self.map_size(images), self.padded_map_size(images, padded_size)
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        batch = images.shape[0]  # not len: a symbol in exports
        tokens = torch.cat([self.class_token.reshape(1, 1, -1).expand(batch, -1, -1), patches], dim=1)
        # The positions are fp32 parameters, which keeps the residual stream in fp32 under autocast.
        positions = self.tables.position_embedding(self.position_embedding, self.native_grid, whole)
        tokens = tokens + upper_left(positions, whole, size)
        rotary = self.rotary(whole, images.device)
        return self.pre_norm(tokens), None if rotary is None else upper_left(rotary, whole, size)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The projected class token, ``B x C``, not normalized; open_clip's ``encode_image`` at the native size."""
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
        nearby = self._nearby(mode, size, tokens)
        for i, block in enumerate(self.trainable_units()):
            last = i == self.num_blocks - 1
            if i >= self.num_blocks - mode.num_blocks:
                read.append(dense_block(block, tokens, rotary, mode, nearby))
            tokens = read[-1] if last else full_block(block, tokens, rotary)
            if i in blocks:
                maps[i] = _to_map(tokens[:, 1:], size)
        tokens = read[-1] if len(read) == 1 else torch.stack(read).sum(0)
        dense = F.normalize(self.project(tokens[:, 1:]).float(), dim=-1)
        return TowerFeatures(_to_map(dense, size), [maps[i] for i in blocks])

    def _nearby(self, mode: DenseMode, size: tuple[int, int], tokens: Tensor) -> Tensor | None:
        if not mode.neighborhood:
            return None
        key = ("neighborhood", mode.neighborhood, size, tokens.device)
        return self.tables.get(key, lambda: neighborhood_scores(size, mode.neighborhood, tokens.device))

    @override
    def unread_parameters(self, dense_mode: str) -> list[nn.Parameter]:
        unread, parts = DENSE_MODES[dense_mode].unread, self.parts(self.trainable_units()[-1])
        return [p for name in unread & parts.keys() for module in parts[name] for p in module.parameters()]

    def queries(self, maps: Tensor) -> Tensor:
        """The last block's queries, heads concatenated, without rotary positions.

        Args:
            maps: ``B x D x h x w``, the features of the block before it; see `features`.

        Returns:
            ``B x D x h x w``.
        """
        queries, _, _ = self.queries_keys_values(self.trainable_units()[-1], maps.flatten(2).transpose(1, 2), None)
        return _to_map(_join_heads(queries), (maps.shape[-2], maps.shape[-1]))

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings`.

        As in the released code, one copy of the class token per region enters the first block and passes through every
        block. It attends to the image's class token and to the patches of its region, not to itself; nothing attends to
        it. An empty region therefore sees the class token alone.
        """
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


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def cast_for_autocast(x: Tensor) -> Tensor:
    """Cast activations that several matrix products read to autocast's dtype, once."""
    device = x.device.type
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x
