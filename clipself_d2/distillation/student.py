"""What all distillations share: a tower that trains, and a frozen copy of its initial weights, kept for the export."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from clipself_d2.clip.checkpoint import interpolate
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions.dense import DenseFeatures, LetterboxedImages, dense_features, letterbox_images
from clipself_d2.regions.embedder import RegionEmbedder

_Student = TypeVar("_Student", bound="Student")


class Student(FrozenModules):
    """A tower that trains; subclasses define the loss and hand their keyword arguments on.

    The tower as it was given becomes the frozen `teacher`. What is exported and evaluated lies between the two.

    Args:
        tower: the tower that trains.
        student_size: side in pixels of the square that whole images are letterboxed into; a multiple of the stride.
        teacher_size: side in pixels of image crops: CLIPSelf's teacher's, and those of evaluation. None: the tower's
            native size.
        trainable_blocks: the last blocks, which train; everything else is frozen. None: all blocks.
        alpha: weight of the trained tower in what is exported and evaluated, 0..1; the teacher has the rest (released
            code; the paper does not mention it).
        multiscale: student sizes; each training batch is resized (bilinear) to one drawn at random. Empty: always
            `student_size`. An option of the released code, off in all its scripts.
        dense_mode: dense mode of the student, "no_attn" in the paper; or "masked" (see `RegionEmbedder`), for
            evaluation alone.
        mask_resize: of evaluation, see `regions.resize_masks`.
        activation_checkpointing: recompute the student's blocks in the backward pass to save memory.
        skip_padding: leave the letterbox's padding out of the student's forward, in training and in evaluation; False
            reads it, as the released code does. See `regions.dense_features`.

    Attributes:
        teacher: the frozen copy of the initial tower.

    Raises:
        InputError: a size that is not a multiple of the stride, an alpha outside 0..1, or a wrong number of blocks.
    """

    teacher: ImageTower

    def __init__(
        self,
        tower: ImageTower,
        student_size: int,
        *,
        teacher_size: int | None = None,
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
            tower.check_size(size, "model.student_size" if size == student_size else "model.multiscale")
        if not 0 <= alpha <= 1:
            raise InputError(f"model.alpha={alpha}: must be between 0 (initial tower) and 1 (trained tower)")
        self.tower = tower
        self.hold_frozen("teacher", copy.deepcopy(tower))
        self.student_size = student_size
        self.teacher_size = teacher_size or tower.native_size
        self.alpha = alpha
        self.multiscale = tuple(multiscale)
        self.dense_mode = dense_mode
        self.skip_padding = skip_padding
        embedder = RegionEmbedder(tower, student_size, self.teacher_size, dense_mode, mask_resize, skip_padding)
        self._embedder = (embedder,)  # a tuple keeps its tower, which is ours, out of the state dict
        self.trainable_blocks = tower.num_blocks if trainable_blocks is None else trainable_blocks
        tower.set_trainable_blocks(self.trainable_blocks, "full" if dense_mode == "masked" else dense_mode)
        tower.set_activation_checkpointing(activation_checkpointing)

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """The losses in training, the embeddings of regions in evaluation.

        Args:
            inputs: in training, what `losses` asks for; in evaluation, see `RegionEmbedder`.

        Returns:
            In training, scalars by name; in evaluation, per image R x C unit embeddings by kind of region.
        """
        return self.losses(inputs) if self.training else self._embedder[0](inputs)

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of a training batch; they depend on every trainable parameter even if no image has regions."""
        raise NotImplementedError

    def letterbox(self, images: Sequence[Tensor]) -> LetterboxedImages:
        """Whole images, 3 x H_i x W_i uint8, as the student reads them in training."""
        letterboxed = letterbox_images(self.tower, images, self.student_size)
        if not self.multiscale:
            return letterboxed
        return letterboxed.resize(self.multiscale[int(torch.randint(len(self.multiscale), ()))])

    def embed_regions(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The student's side: boxes pooled from the dense maps of the images.

        Args:
            images: 3 x H_i x W_i uint8, on any device.
            boxes: per image R_i x 4, in its pixels.

        Returns:
            sum(R_i) x C unit embeddings, fp32.
        """
        return self.read(self.letterbox(images)).pool_boxes(boxes)

    def read(self, images: LetterboxedImages, blocks: Sequence[int] = ()) -> DenseFeatures:
        """The student's dense map of letterboxed images, and its features of some blocks."""
        return dense_features(
            self.tower, images, blocks=blocks, dense_mode=self.dense_mode, skip_padding=self.skip_padding
        )

    def ensembled_state_dict(self) -> dict[str, Tensor]:
        """`alpha * trained + (1 - alpha) * initial` (WiSE-FT), under open_clip's names (`visual.*`)."""
        return interpolate(self.tower.state_dict(), self.teacher.state_dict(), self.alpha)

    @contextmanager
    def ensembled_weights(self: _Student) -> Iterator[_Student]:
        """Within the block the student has the ensembled weights; afterwards its own, to the bit."""
        raw = {name: value.clone() for name, value in self.tower.state_dict().items()}
        self.tower.load_state_dict(self.ensembled_state_dict())
        try:
            yield self
        finally:
            self.tower.load_state_dict(raw)

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return self.tower.pixel_mean.device
