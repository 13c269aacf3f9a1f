"""The image tower: what every CLIP image encoder offers to the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipself_d2.clip.positions import TableCache
from clipself_d2.errors import InputError


class TowerFeatures(NamedTuple):
    """What one forward of a tower gives.

    Attributes:
        dense: ``B x C x h x w`` fp32 embeddings, unit norm over ``C``.
        blocks: one ``B x D x h x w`` map per requested block, in the requested order.
    """

    dense: Tensor
    blocks: list[Tensor]


class ImageTower(nn.Module, ABC):
    """A CLIP image encoder with three outputs: image embeddings, a dense map of embeddings, block features.

    Images are normalized floats ``B x 3 x H x W`` (see `normalize`). They need not be square, but both sides must be
    multiples of `stride`. ``h, w`` stand for ``H / stride, W / stride``. `clip.build` lists the families.

    Every tower has the dense mode ``"no_attn"`` (paper, section 3.1: the last block keeps its value path and drops its
    attention), all but CoCa ``"full"`` (the ordinary last block), and transformers have all of `clip.dense_modes`.

    Attributes:
        visual: open_clip's visual module. The tower's state dict is ``visual.*`` with open_clip's names.
        stride: pixels of the image per location of the dense map.
        embed_dim: ``C``, the length of an embedding.
        native_grid: ``(gh, gw)``, the map's size at the image size that the tower was trained on.
        native_size: side of the square images that the tower was trained on, in pixels.
        num_blocks: number of transformer blocks (of stages, for a ResNet).
        block_dim: ``D``, channels of a block's features (of the last stage, for a ResNet).
        dense_modes: the dense modes of this family.
        compiled: the methods that `compile` compiles.
        single_scale: whether the features of all blocks have the dense map's stride and `block_dim` channels.
        pixel_mean, pixel_std: ``1 x 3 x 1 x 1`` RGB statistics in 0..1 units, not in the state dict.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    dense_modes: tuple[str, ...] = ("no_attn", "full")
    compiled: tuple[str, ...]
    single_scale = False

    def __init__(
        self,
        visual: nn.Module,
        *,
        stride: int,
        embed_dim: int,
        native_grid: tuple[int, int],
        num_blocks: int,
        block_dim: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.visual = visual
        self.stride = stride
        self.embed_dim = embed_dim
        self.native_grid = native_grid
        self.native_size = native_grid[0] * stride
        self.num_blocks = num_blocks
        self.block_dim = block_dim
        self.activation_checkpointing = False
        self.tables = TableCache()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    # ---- what a family implements ----

    @classmethod
    @abstractmethod
    def matches(cls, visual: nn.Module) -> bool:
        """Whether an open_clip visual module belongs to this family."""

    @abstractmethod
    def image_embeddings(self, images: Tensor) -> Tensor:
        """The ordinary zero-shot embedding of whole images, ``B x C``, not normalized."""

    @abstractmethod
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        """The dense map and the features of some blocks, from one forward.

        Args:
            images: ``B x 3 x H x W``, normalized.
            blocks: 0-based numbers of the blocks whose outputs (the residual stream, without class token and norm) are
                requested. The last block's output is that of the dense mode.
            dense_mode: one of `dense_modes`.
            padded_size: side in pixels of the square of which the images are the upper left part. Positions are then
                those of the square. None: the images are whole.

        Raises:
            InputError: a side that is not a multiple of the stride or exceeds the padded size; an unknown block or
                dense mode.
        """

    @abstractmethod
    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """Class tokens that attend to their region alone: masked attention (paper, Tab. A1, third row).

        Args:
            images: ``B x 3 x H x W``, normalized.
            masks: per image, ``R_i x h x w`` bool, true at the locations that the region's token attends to.

        Returns:
            Per image, ``R_i x C`` embeddings, not normalized.

        Raises:
            InputError: masks that do not match the images in number or in size.
        """

    @abstractmethod
    def trainable_units(self) -> Sequence[nn.Module]:
        """The blocks (or stages), first to last, that `set_trainable_blocks` counts."""

    def unread_parts(self, dense_mode: str) -> set[str]:
        """What of the last block, of its queries ("q"), keys ("k") and MLP ("mlp"), a dense mode does not read."""
        return set()

    def unread_parameters(self, dense_mode: str) -> list[nn.Parameter]:
        """Parameters of the last block that a dense mode does not read and that therefore get no gradient."""
        return []

    def query_value_weights(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Per block, the weights of its attention's query and value projections, as parameters of their own.

        A family with fused projections splits them first; what the tower computes does not change.

        Raises:
            InputError: the blocks have no attention.
        """
        raise InputError(f"{type(self).__name__}: the blocks of this image tower have no attention to train")

    def fuse_projections(self) -> None:
        """Fuse what `query_value_weights` split: the state dict has open_clip's names again."""

    # ---- what all families share ----

    def normalize(self, images: Tensor) -> Tensor:
        """RGB images in 0..255 (uint8 or float), ``... x 3 x H x W``, to the floats that the tower reads."""
        return (images.to(self.pixel_mean) / 255 - self.pixel_mean) / self.pixel_std

    def dense_embeddings(self, images: Tensor, dense_mode: str = "no_attn", padded_size: int | None = None) -> Tensor:
        """The dense map alone, ``B x C x h x w``, unit norm over ``C``; see `features`."""
        return self.features(images, (), dense_mode, padded_size).dense

    def set_trainable_blocks(self, n: int, dense_mode: str = "no_attn") -> None:
        """Train the last ``n`` blocks and freeze everything else (paper, Tab. 1b).

        Patch embedding, class token, positions, final norm and projection always stay frozen (released code).

        Args:
            n: number of blocks, 0..`num_blocks`.
            dense_mode: the dense mode that will be trained. What it does not read of the last block is frozen too
                where it is a parameter of its own: every trainable parameter then gets a gradient.

        Raises:
            InputError: ``n`` out of range or an unknown dense mode.
        """
        self.check_dense_mode(dense_mode)
        if not 0 <= n <= self.num_blocks:
            raise InputError(
                f"trainable_blocks is {n}: this tower has {self.num_blocks} blocks, give 0..{self.num_blocks}"
            )
        self.requires_grad_(False)
        for unit in list(self.trainable_units())[self.num_blocks - n :]:
            unit.requires_grad_(True)
        for parameter in self.unread_parameters(dense_mode):
            parameter.requires_grad_(False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the methods in `compiled`, in place, with `torch.compile`'s arguments; all else stays eager.

        Sizes are variables of the graphs from the start, because the shapes of images and the number of crops differ
        from step to step. A graph for the first sizes would soon be wasted.
        """
        for name in self.compiled:
            setattr(self, name, torch.compile(getattr(self, name), *args, dynamic=True, **kwargs))

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the blocks in the backward pass instead of storing their activations."""
        self.activation_checkpointing = enabled

    def checkpointed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A block's function, under activation checkpointing if that is enabled and gradients are wanted."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, function, use_reentrant=False)
        return function

    def map_size(self, images: Tensor) -> tuple[int, int]:
        """``(h, w)`` of these images' dense map; InputError for a side that is not a multiple of the stride."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride or not height or not width:
            raise InputError(
                f"image size {height} x {width} (height x width): "
                f"both must be multiples of the tower's stride {self.stride}"
            )
        return height // self.stride, width // self.stride

    def padded_map_size(self, images: Tensor, padded_size: int | None) -> tuple[int, int]:
        """``(h, w)`` of the map of which these images' map is the upper left part; see `features`."""
        size = self.map_size(images)
        if padded_size is None:
            return size
        self.check_size(padded_size, "padded_size")
        if max(images.shape[-2:]) > padded_size:
            raise InputError(f"images of {tuple(images.shape[-2:])} pixels do not fit into {padded_size} pixels")
        return padded_size // self.stride, padded_size // self.stride

    def check_dense_mode(self, dense_mode: str) -> None:
        """Raise an InputError for an unknown dense mode."""
        if dense_mode not in self.dense_modes:
            raise InputError(f"dense mode '{dense_mode}' is unknown: use one of {', '.join(self.dense_modes)}")

    def check_size(self, size: int, name: str) -> None:
        """Raise an InputError for a side of a square input that is not a multiple of the stride.

        Args:
            size: in pixels.
            name: the setting that holds it, for the message.
        """
        if size < 1 or size % self.stride:
            near = max(self.stride, round(size / self.stride) * self.stride)
            raise InputError(f"{name}={size}: not a multiple of the tower's stride {self.stride}; try {near}")

    def check_blocks(self, blocks: Sequence[int]) -> None:
        """Raise an InputError for a block that the tower does not have."""
        if wrong := [block for block in blocks if not 0 <= block < self.num_blocks]:
            raise InputError(f"blocks {wrong} do not exist: this tower has blocks 0..{self.num_blocks - 1}")

    def stack_masks(self, masks: Sequence[Tensor], images: Tensor) -> Tensor:
        """Masks padded to the largest number of regions: ``B x R x (1 + h * w)`` bool; all see the class token."""
        size = self.map_size(images)
        if len(masks) != len(images):
            raise InputError(f"{len(masks)} sets of masks for {len(images)} images: give one set per image")
        if wrong := [tuple(mask.shape) for mask in masks if mask.ndim != 3 or tuple(mask.shape[1:]) != size]:
            raise InputError(f"masks of shape {wrong[0]}: the map of these images is R x {size[0]} x {size[1]}")
        visible = torch.zeros(len(masks), max(map(len, masks), default=0), 1 + size[0] * size[1], dtype=torch.bool)
        visible = visible.to(images.device)
        visible[:, :, 0] = True
        for row, mask in zip(visible, masks, strict=True):
            row[: len(mask), 1:] = mask.flatten(1)
        return visible
