"""From images and regions to region embeddings: one dense forward for all images, crops by the image path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions.crop_embeddings import embed_crops
from clipself_d2.regions.crops import content_sizes, letterbox
from clipself_d2.regions.dense import dense_map
from clipself_d2.regions.pooling import MASK_RESIZES, letterbox_masks, pool_boxes, pool_masks


class RegionEmbedder(nn.Module):
    """Embeds boxes and masks from the dense map of a CLIP image tower, and image crops by its ordinary embedding."""

    def __init__(
        self,
        tower: ImageTower,
        size: int,
        crop_size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        skip_padding: bool = True,
    ):
        """Wraps a tower.

        Args:
            tower: a `clip.ImageTower`.
            size: side of the square input of the dense forward, a multiple of the tower's stride.
            crop_size: side of the square crops. None: the tower's native size.
            dense_mode: a dense mode of the tower (``"no_attn"``, ``"full"``), or ``"masked"``: each region is
                embedded by a class token that attends to the region alone (paper table A1, row 3).
            mask_resize: how masks come to the grid of the dense map, see `resize_masks`.
            skip_padding: leave out the letterbox's padding, see `letterboxed_features`; mode ``"masked"`` always reads
                it.

        Raises:
            InputError: if size is no multiple of the stride, or the mask resize is unknown.
        """
        super().__init__()
        if size < 1 or size % tower.stride:
            raise InputError(f"size {size} is no multiple of the tower's stride {tower.stride}: choose one that is")
        if mask_resize not in MASK_RESIZES:
            raise InputError(f"mask_resize {mask_resize!r} is not known: use one of {', '.join(MASK_RESIZES)}")
        self.tower = tower
        self.size = size
        self.skip_padding = skip_padding
        self.crop_size = crop_size or tower.native_size
        self.dense_mode = dense_mode
        self.mask_resize = mask_resize

    @torch.no_grad()
    def forward(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Embeds the regions of a batch of images.

        Args:
            inputs: for every image ``image`` (3 x H x W uint8) and any of ``boxes`` and ``crop_boxes`` (`Boxes` in
                pixels of the image) and ``masks`` (R x H x W bool).

        Returns:
            For every image those of ``boxes``, ``masks`` and ``crops`` (the crop_boxes) that it asks for: R x C unit
            embeddings, float32, on the tower's device.
        """
        device = self.tower.pixel_mean.device
        images = [x["image"].to(device, non_blocking=True) for x in inputs]
        none = torch.zeros(0, 4)
        boxes = [x["boxes"].tensor if "boxes" in x else none for x in inputs]
        masks = [x["masks"] if "masks" in x else torch.zeros(0, *x["image"].shape[1:]) for x in inputs]
        crops = [x["crop_boxes"].tensor if "crop_boxes" in x else none for x in inputs]

        outputs: list[dict[str, Tensor]] = [{} for _ in inputs]
        if any("boxes" in x or "masks" in x for x in inputs):
            box_embeddings, mask_embeddings = self.embed_dense(images, boxes, masks)
            for x, output, by_box, by_mask in zip(inputs, outputs, box_embeddings, mask_embeddings, strict=True):
                output.update({"boxes": by_box} if "boxes" in x else {})
                output.update({"masks": by_mask} if "masks" in x else {})
        if any("crop_boxes" in x for x in inputs):
            for x, output, by_crop in zip(inputs, outputs, self.embed_crops(images, crops), strict=True):
                output.update({"crops": by_crop} if "crop_boxes" in x else {})
        return outputs

    def embed_dense(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Embeds boxes (R_i x 4 in pixels of the images) and masks (R_i x H_i x W_i) from one dense forward."""
        pixels, scales = letterbox(images, self.size)
        pixels = self.tower.normalize(pixels)
        boxes = [b.to(pixels.device) * scale for b, scale in zip(boxes, scales, strict=True)]
        grid = self.size // self.tower.stride
        masks = [letterbox_masks(m.to(pixels.device), grid, self.mask_resize) for m in masks]
        counts = [len(b) for b in boxes]

        if self.dense_mode == "masked":
            cells = [
                torch.cat([_box_cells(b / self.tower.stride, grid), m > 0]) for b, m in zip(boxes, masks, strict=True)
            ]
            embeddings = [F.normalize(e.float(), dim=-1) for e in self.tower.masked_embeddings(pixels, cells)]
            return (
                [e[:n] for e, n in zip(embeddings, counts, strict=True)],
                [e[n:] for e, n in zip(embeddings, counts, strict=True)],
            )
        dense = dense_map(self.tower, pixels, content_sizes(images, scales), self.dense_mode, self.skip_padding)
        return (
            list(pool_boxes(dense, boxes, self.tower.stride).split(counts)),
            [pool_masks(d, m) for d, m in zip(dense, masks, strict=True)],
        )

    def embed_crops(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embeds image crops (R_i x 4 in pixels of the images) as the teacher does."""
        embeddings = embed_crops(self.tower, images, boxes, self.crop_size)
        return list(embeddings.split([len(b) for b in boxes]))


def _box_cells(boxes: Tensor, grid: int) -> Tensor:
    """Boxes in cells, rounded down to whole cells but never empty -> R x grid x grid bool."""
    start = boxes[:, :2].floor().clamp(0, grid - 1)
    end = boxes[:, 2:].floor().maximum(start + 1)
    cell = torch.arange(grid, device=boxes.device)
    inside = (cell >= start[..., None]) & (cell < end[..., None])  # R x (x, y) x grid
    return inside[:, 1, :, None] & inside[:, 0, None, :]
