"""The image tower: what every CLIP image encoder offers to the rest of the package."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipself_d2.errors import InputError

DENSE_MODES = ("no_attn", "full")


class TowerFeatures(NamedTuple):
    """What one forward of a tower gives.

    Attributes:
        dense: ``B x C x h x w`` fp32 embeddings, unit norm over ``C``.
        blocks: one ``B x D x h x w`` map for each block that was asked for, in the order asked.
    """

    dense: Tensor
    blocks: list[Tensor]


class ImageTower(nn.Module, ABC):
    """A CLIP image encoder with three outputs: image embeddings, a dense map of embeddings, block features.

    Images are normalised floats ``B x 3 x H x W`` (see `normalize`) whose sides are multiples of `stride`; they need
    not be square. ``h, w`` below are ``H / stride, W / stride``.

    Dense modes:
        * ``"no_attn"`` (the paper's, section 3.1): the last block keeps its value path and drops its attention.
        * ``"full"``: the ordinary last block.

    Attributes:
        visual: the open_clip visual module. The tower's state dict is ``visual.*`` with open_clip's names.
        stride: pixels of the image for a location of the dense map.
        embed_dim: ``C``, the length of an embedding.
        native_size: side of the square image that the tower was trained on, in pixels.
        num_blocks: number of transformer blocks (of stages, for a ResNet).
        block_dim: ``D``, channels of a block's features (of the last stage, for a ResNet).
        pixel_mean, pixel_std: ``1 x 3 x 1 x 1`` RGB statistics in 0..1 units, not in the state dict.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        visual: nn.Module,
        *,
        stride: int,
        embed_dim: int,
        native_size: int,
        num_blocks: int,
        block_dim: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.visual = visual
        self.stride = stride
        self.embed_dim = embed_dim
        self.native_size = native_size
        self.num_blocks = num_blocks
        self.block_dim = block_dim
        self.activation_checkpointing = False
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """RGB images in 0..255 (uint8 or float), ``... x 3 x H x W``, to the floats that the tower reads."""
        return (images.to(self.pixel_mean) / 255 - self.pixel_mean) / self.pixel_std

    @abstractmethod
    def image_embeddings(self, images: Tensor) -> Tensor:
        """The ordinary zero-shot embedding of whole images, ``B x C``, not normalised."""

    @abstractmethod
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        """The dense map and the features of some blocks, in one forward.

        Args:
            images: ``B x 3 x H x W``, normalised.
            blocks: 0-based numbers of the blocks whose output (the residual stream, without class token and without
                norm) is wanted. The last block's is that of the modified block when dense_mode is ``"no_attn"``.
            dense_mode: ``"no_attn"`` or ``"full"``.
            padded_size: side in pixels of the square that the images are the upper left part of; positions are then
                the square's. None: the images are whole.

        Raises:
            InputError: a side that is no multiple of the stride, or longer than the padded size; an unknown block or
                dense mode.
        """

    @abstractmethod
    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """The block maps of `features` (mode ``"no_attn"``) alone; nothing after the last wanted block is computed."""

    @abstractmethod
    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """Class tokens that see only their region: masked attention (paper, Tab. A1, third row).

        Args:
            images: ``B x 3 x H x W``, normalised.
            masks: for each image, ``R_i x h x w`` bool, true at the locations that the region's token may see.

        Returns:
            For each image, ``R_i x C`` embeddings, not normalised.

        Raises:
            InputError: masks of another number or size than the images' maps.
        """

    @abstractmethod
    def trainable_units(self) -> Sequence[nn.Module]:
        """The blocks (or stages), first to last, that `set_trainable_blocks` counts."""

    def unused_in_no_attn_mode(self) -> list[nn.Parameter]:
        """Parameters of the last block that mode ``"no_attn"`` never reads, and that so get no gradient."""
        return []

    def dense_embeddings(self, images: Tensor, dense_mode: str = "no_attn", padded_size: int | None = None) -> Tensor:
        """The dense map alone, ``B x C x h x w``, unit norm over ``C``; see `features`."""
        return self.features(images, (), dense_mode, padded_size).dense

    def set_trainable_blocks(self, n: int, dense_mode: str = "no_attn") -> None:
        """Train the last ``n`` blocks and freeze everything else (paper, Tab. 1b); 0 freezes all.

        Patch embedding, class token, positions, final norm and projection always stay frozen (released code).

        Args:
            n: number of blocks, 0..`num_blocks`.
            dense_mode: the dense mode that will be trained. For ``"no_attn"`` the last block's queries and keys are
                frozen too where they are parameters of their own, so that every trainable parameter gets a gradient.

        Raises:
            InputError: ``n`` out of range or an unknown dense_mode.
        """
        self.check_dense_mode(dense_mode)
        if not 0 <= n <= self.num_blocks:
            raise InputError(
                f"trainable_blocks is {n}: this tower has {self.num_blocks} blocks, give 0..{self.num_blocks}"
            )
        self.requires_grad_(False)
        for unit in list(self.trainable_units())[self.num_blocks - n :]:
            unit.requires_grad_(True)
        if dense_mode == "no_attn":
            for parameter in self.unused_in_no_attn_mode():
                parameter.requires_grad_(False)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute the blocks in the backward pass instead of storing their activations."""
        self.activation_checkpointing = enabled

    def run_unit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a block, under activation checkpointing where that is enabled and gradients are wanted."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def map_size(self, images: Tensor) -> tuple[int, int]:
        """``(h, w)`` of the dense map of these images; an InputError where a side is no multiple of the stride."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride or not height or not width:
            raise InputError(
                f"image size {height} x {width} (height x width): "
                f"both must be multiples of the tower's stride {self.stride}"
            )
        return height // self.stride, width // self.stride

    def padded_map_size(self, images: Tensor, padded_size: int | None) -> tuple[int, int]:
        """``(h, w)`` of the map whose upper left part these images' map is; see `features`."""
        size = self.map_size(images)
        if padded_size is None:
            return size
        self.check_size(padded_size, "padded_size")
        if max(images.shape[-2:]) > padded_size:
            raise InputError(f"images of {tuple(images.shape[-2:])} pixels do not fit into {padded_size} pixels")
        return padded_size // self.stride, padded_size // self.stride

    def check_dense_mode(self, dense_mode: str) -> None:
        """Raise an InputError for an unknown dense mode."""
        if dense_mode not in DENSE_MODES:
            raise InputError(f"dense mode '{dense_mode}' is unknown: use one of {', '.join(DENSE_MODES)}")

    def check_size(self, size: int, name: str) -> None:
        """Raise an InputError for a side of a square input that is no multiple of the stride.

        Args:
            size: in pixels.
            name: the setting that holds it, for the message.
        """
        if size < 1 or size % self.stride:
            near = max(self.stride, round(size / self.stride) * self.stride)
            raise InputError(f"{name}={size}: no multiple of the tower's stride {self.stride}; try {near}")

    def check_blocks(self, blocks: Sequence[int]) -> None:
        """Raise an InputError for a block that the tower has not."""
        if wrong := [block for block in blocks if not 0 <= block < self.num_blocks]:
            raise InputError(f"blocks {wrong} do not exist: this tower has blocks 0..{self.num_blocks - 1}")

    def stack_masks(self, masks: Sequence[Tensor], images: Tensor) -> Tensor:
        """Masks padded to the largest number of regions: ``B x R x (1 + h * w)`` bool; all see the class token."""
        size = self.map_size(images)
        if len(masks) != len(images):
            raise InputError(f"{len(masks)} sets of masks for {len(images)} images: give one set an image")
        if wrong := [tuple(mask.shape) for mask in masks if mask.ndim != 3 or tuple(mask.shape[1:]) != size]:
            raise InputError(f"masks of shape {wrong[0]}: the map of these images is R x {size[0]} x {size[1]}")
        seen = torch.zeros(len(masks), max(map(len, masks), default=0), 1 + size[0] * size[1], dtype=torch.bool)
        seen = seen.to(images.device)
        seen[:, :, 0] = True
        for row, mask in zip(seen, masks, strict=True):
            row[: len(mask), 1:] = mask.flatten(1)
        return seen
