"""CLIPSelf: a tower's dense map learns from the same tower's embeddings of image crops (paper, section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from clipself_d2.clip.aside import HoldsAside
from clipself_d2.clip.checkpoint import interpolate
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import crop_and_resize, letterbox
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.regions.pooling import pool_boxes

# Crops that go through the teacher at once; bounds its memory on a large batch.
_CROP_BATCH = 128


@META_ARCH_REGISTRY.register()
class CLIPSelf(HoldsAside):
    """Trains a tower's dense map to agree, region by region, with a frozen copy's embedding of the region's crop.

    The loss is `1 - mean cosine` over all regions of all ranks' batches: the released code averages over regions, the
    paper's equation over the regions of an image and then over images. Each rank divides its sum by the mean number of
    regions a rank, so that averaging gradients over ranks (DDP) gives the gradient of the global mean.

    The teacher is the tower as it was given. It moves with the module, yet is not part of its state dict, parameters or
    modes.

    Args:
        tower: student, and the teacher's source.
        student_size: side of the square that whole images are letterboxed into, in pixels; a multiple of the stride.
        teacher_size: side of the teacher's crops, pixels; None for the tower's native size.
        trainable_blocks: the last blocks that train, all else is frozen; None for all blocks.
        alpha: weight of the student in what is exported and evaluated, 0..1; the teacher weighs the rest (released
            code; the paper does not mention it).
        loss_weight: factor of the loss.
        multiscale: student sizes of which each training batch is resized (bilinear) to a random one; empty for
            `student_size` always. The released code's option, off in all its scripts.
        mode: dense mode of the student, "value" in the paper; or "masked" (see `RegionEmbedder`), for evaluation alone.
        mask_resize: of evaluation, see `regions.resize_masks`.
        activation_checkpointing: recompute the student's blocks in the backward pass to save memory.

    Raises:
        InputError: for a size that is no multiple of the stride, an alpha outside 0..1, or a wrong number of blocks.
    """

    def __init__(
        self,
        tower: ImageTower,
        student_size: int,
        teacher_size: int | None = None,
        trainable_blocks: int | None = None,
        alpha: float = 1.0,
        loss_weight: float = 1.0,
        multiscale: Sequence[int] = (),
        mode: str = "value",
        mask_resize: str = "area",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for size in (student_size, *multiscale):
            if size < 1 or size % tower.stride:
                near = max(tower.stride, round(size / tower.stride) * tower.stride)
                raise InputError(f"model: student size {size} is no multiple of the stride {tower.stride}; try {near}")
        if not 0 <= alpha <= 1:
            raise InputError(f"model.alpha={alpha}: must be between 0 (teacher) and 1 (student)")
        self.tower = tower
        self.student_size = student_size
        self.teacher_size = teacher_size or tower.native_size
        self.alpha = alpha
        self.loss_weight = loss_weight
        self.multiscale = tuple(multiscale)
        self.mode = mode
        self.hold_aside(copy.deepcopy(tower))
        # In a tuple, because it holds the student, which would be in the state dict twice.
        self._embedder = (RegionEmbedder(tower, student_size, self.teacher_size, mode, mask_resize),)
        self.trainable_blocks = tower.num_blocks if trainable_blocks is None else trainable_blocks
        tower.set_trainable_blocks(self.trainable_blocks, "full" if mode == "masked" else mode)
        tower.set_activation_checkpointing(activation_checkpointing)

    @property
    def teacher(self) -> ImageTower:
        """The frozen copy of the initial tower."""
        return self._aside[0]  # type: ignore[return-value]

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        """The loss in training, the embeddings of regions in evaluation.

        Args:
            inputs: in training, samples with `image` (3 x H x W uint8), `regions` and `crop_boxes` (`Boxes` in pixels
                of `image`, same order); an image without regions, and no image at all, are legal. In evaluation, see
                `RegionEmbedder`.

        Returns:
            In training `{"loss_clipself": scalar}`; in evaluation, for each image, R x C unit embeddings by kind of
            region.
        """
        if not self.training:
            return self._embedder[0](inputs)
        inputs = [x for x in inputs if len(x["regions"])]
        num_regions = self.num_terms(inputs)
        mean_regions = self._mean_over_ranks(num_regions)
        if not inputs:
            # Touches every parameter, so that DDP's ranks with regions are not left waiting.
            return {"loss_clipself": sum(p.flatten()[0] for p in self.tower.parameters() if p.requires_grad) * 0.0}
        images = [x["image"].to(self._device, non_blocking=True) for x in inputs]
        targets = self.embed_crops(images, [x["crop_boxes"].tensor for x in inputs])
        cosine = (self.embed_regions(images, [x["regions"].tensor for x in inputs]) * targets).sum(dim=-1)
        if has_event_storage():
            storage = get_event_storage()
            storage.put_scalars(cosine=cosine.detach().mean(), regions_per_image=num_regions / len(inputs))
        return {"loss_clipself": self.loss_weight * (1 - cosine).sum() / mean_regions}

    def embed_regions(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The student's side: one dense forward of the letterboxed images, boxes pooled from it.

        Args:
            images: 3 x H_i x W_i uint8, on the module's device.
            boxes: for each image R_i x 4, in its pixels.

        Returns:
            sum(R_i) x C unit embeddings, fp32.
        """
        pixels, scales = letterbox(images, self.student_size)
        pixels = self.tower.normalize(pixels)
        if self.multiscale:
            size = self.multiscale[int(torch.randint(len(self.multiscale), ()))]
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
            scales = [scale * size / self.student_size for scale in scales]
        dense = self.tower.dense_embeddings(pixels, mode=self.mode)
        scaled = [box.to(self._device) * scale for box, scale in zip(boxes, scales, strict=True)]
        return pool_boxes(dense, scaled, self.tower.stride)

    @torch.no_grad()
    def embed_crops(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The teacher's side: the ordinary image embedding of each crop, aspect kept, centred on black.

        Args:
            images: 3 x H_i x W_i uint8, on the module's device.
            boxes: for each image R_i x 4, in its pixels.

        Returns:
            sum(R_i) x C unit embeddings, fp32.
        """
        crops = torch.cat([crop_and_resize(i, b, self.teacher_size) for i, b in zip(images, boxes, strict=True)])
        chunks = [self.teacher.normalize(chunk) for chunk in crops.split(_CROP_BATCH)]
        embeddings = [self.teacher.image_embeddings(chunk).float() for chunk in chunks]
        return F.normalize(torch.cat(embeddings), dim=-1)

    def num_terms(self, inputs: Sequence[dict[str, Any]]) -> int:
        """Number of regions, over which the loss is a mean; what the trainer weights chunks of a batch by."""
        return sum(len(x["regions"]) for x in inputs)

    def export_state(self) -> dict[str, Tensor]:
        """`alpha * student + (1 - alpha) * teacher`: the image tower, under open_clip's names (`visual.*`)."""
        return interpolate(self.tower.state_dict(), self.teacher.state_dict(), self.alpha)

    @contextmanager
    def exported(self) -> Iterator[CLIPSelf]:
        """Within the block the student has the exported weights; afterwards its own, to the bit."""
        raw = {name: value.clone() for name, value in self.tower.state_dict().items()}
        self.tower.load_state_dict(self.export_state())
        try:
            yield self
        finally:
            self.tower.load_state_dict(raw)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two towers' forwards; reading lists of samples stays as it is. Arguments: `torch.compile`'s."""
        for tower, name in ((self.tower, "features"), (self.teacher, "image_embeddings")):
            setattr(tower, name, torch.compile(getattr(tower, name), *args, **kwargs))

    @property
    def _device(self) -> torch.device:
        return self.tower.pixel_mean.device

    def _mean_over_ranks(self, count: int) -> Tensor | int:
        if comm.get_world_size() == 1:
            return count
        total = torch.tensor(float(count), device=self._device)
        torch.distributed.all_reduce(total)
        return total / comm.get_world_size()
