"""What all distillations share: a tower that trains on whole images, and its initial weights, kept for the export."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip.checkpoint import interpolate
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import content_sizes, letterbox
from clipself_d2.regions.dense import dense_map
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.regions.pooling import pool_boxes

_Student = TypeVar("_Student", bound="Student")


class Student(FrozenModules):
    """A tower whose dense map is trained; subclasses say by which loss.

    The tower as it was given is kept aside, frozen: it moves with the module, yet is not part of its state dict,
    parameters or modes. What is exported and evaluated lies between the two.

    Args:
        tower: what trains.
        student_size: side of the square that whole images are letterboxed into, in pixels; a multiple of the stride.
        crop_size: side of the crops of evaluation, pixels; None for the tower's native size.
        trainable_blocks: the last blocks that train, all else is frozen; None for all blocks.
        alpha: weight of the trained tower in what is exported and evaluated, 0..1; the initial one weighs the rest
            (released code; the paper does not mention it).
        multiscale: student sizes of which each training batch is resized (bilinear) to a random one; empty for
            `student_size` always. The released code's option, off in all its scripts.
        dense_mode: dense mode of the student, "no_attn" in the paper; or "masked" (see `RegionEmbedder`), for
            evaluation alone.
        mask_resize: of evaluation, see `regions.resize_masks`.
        activation_checkpointing: recompute the student's blocks in the backward pass to save memory.
        skip_padding: leave the letterbox's padding out of the student's forward, in training and in evaluation; False
            reads it as the released code does, see `regions.letterboxed_features`.

    Raises:
        InputError: for a size that is no multiple of the stride, an alpha outside 0..1, or a wrong number of blocks.
    """

    def __init__(
        self,
        tower: ImageTower,
        student_size: int,
        crop_size: int | None = None,
        trainable_blocks: int | None = None,
        alpha: float = 1.0,
        multiscale: Sequence[int] = (),
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        activation_checkpointing: bool = False,
        skip_padding: bool = True,
    ) -> None:
        super().__init__()
        for size in (student_size, *multiscale):
            if size < 1 or size % tower.stride:
                near = max(tower.stride, round(size / tower.stride) * tower.stride)
                raise InputError(f"model: student size {size} is no multiple of the stride {tower.stride}; try {near}")
        if not 0 <= alpha <= 1:
            raise InputError(f"model.alpha={alpha}: must be between 0 (initial tower) and 1 (trained tower)")
        self.tower = tower
        self.student_size = student_size
        self.alpha = alpha
        self.multiscale = tuple(multiscale)
        self.dense_mode = dense_mode
        self.skip_padding = skip_padding
        self.hold_frozen(copy.deepcopy(tower))
        # In a tuple, because it holds the student, which would be in the state dict twice.
        self._embedder = (RegionEmbedder(tower, student_size, crop_size, dense_mode, mask_resize, skip_padding),)
        self.trainable_blocks = tower.num_blocks if trainable_blocks is None else trainable_blocks
        tower.set_trainable_blocks(self.trainable_blocks, "full" if dense_mode == "masked" else dense_mode)
        tower.set_activation_checkpointing(activation_checkpointing)

    @property
    def teacher(self) -> ImageTower:
        """The frozen copy of the initial tower."""
        return self._frozen[0]  # type: ignore[return-value]

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """The losses in training, the embeddings of regions in evaluation.

        Args:
            inputs: in training, what `losses` asks for; in evaluation, see `RegionEmbedder`.

        Returns:
            In training, scalars by name; in evaluation, for each image, R x C unit embeddings by kind of region.
        """
        return self.losses(inputs) if self.training else self._embedder[0](inputs)

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of a training batch, which depend on every trainable parameter even where there are no regions."""
        raise NotImplementedError

    def student_view(self, images: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
        """Whole images as the student sees them.

        Args:
            images: 3 x H_i x W_i uint8, on the module's device.

        Returns:
            B x 3 x S x S normalised, and for each image the factor from its pixels to those.
        """
        pixels, scales = letterbox(images, self.student_size)
        pixels = self.tower.normalize(pixels)
        if self.multiscale:
            size = self.multiscale[int(torch.randint(len(self.multiscale), ()))]
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
            scales = [scale * size / self.student_size for scale in scales]
        return pixels, scales

    def embed_regions(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The student's side: one dense forward of the letterboxed images, boxes pooled from it.

        Args:
            images: 3 x H_i x W_i uint8, on the module's device.
            boxes: for each image R_i x 4, in its pixels.

        Returns:
            sum(R_i) x C unit embeddings, fp32.
        """
        pixels, scales = self.student_view(images)
        dense = dense_map(self.tower, pixels, content_sizes(images, scales), self.dense_mode, self.skip_padding)
        scaled = [box.to(self.device) * scale for box, scale in zip(boxes, scales, strict=True)]
        return pool_boxes(dense, scaled, self.tower.stride)

    def ensembled_state_dict(self) -> dict[str, Tensor]:
        """`alpha * trained + (1 - alpha) * initial`: the image tower, under open_clip's names (`visual.*`)."""
        return interpolate(self.tower.state_dict(), self.teacher.state_dict(), self.alpha)

    @contextmanager
    def ensembled_weights(self: _Student) -> Iterator[_Student]:
        """Within the block the student has the exported weights; afterwards its own, to the bit."""
        raw = {name: value.clone() for name, value in self.tower.state_dict().items()}
        self.tower.load_state_dict(self.ensembled_state_dict())
        try:
            yield self
        finally:
            self.tower.load_state_dict(raw)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the student's forward; reading lists of samples stays as it is. Arguments: `torch.compile`'s."""
        self.tower.features = torch.compile(self.tower.features, *args, **kwargs)  # type: ignore[method-assign]

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.tower.pixel_mean.device
