"""Boxes, masks and crops of images to region embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions.crop_embeddings import embed_crops
from clipself_d2.regions.dense import dense_features, letterbox_images
from clipself_d2.regions.pooling import MASK_RESIZES, letterbox_masks


class RegionEmbedder(nn.Module):
    """Embeds boxes and masks from a tower's dense map, and image crops by its ordinary embedding.

    Args:
        tower: a CLIP image tower.
        size: side in pixels of the square input of the dense forward, a multiple of the tower's stride.
        crop_size: side in pixels of the square crops. None: the tower's native size.
        dense_mode: a dense mode of the tower (``"no_attn"``, ``"full"``), or ``"masked"``: each region is embedded by a
            class token that attends to the region alone (paper, table A1, row 3). ``"masked"`` always reads padding.
        mask_resize: how masks are brought to the dense map's cells, see `resize_masks`.
        skip_padding: see `dense_features`.

    Raises:
        InputError: a size that is not a multiple of the stride, or an unknown mask resize.
    """

    def __init__(
        self,
        tower: ImageTower,
        size: int,
        crop_size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        skip_padding: bool = True,
    ) -> None:
        super().__init__()
        tower.check_size(size, "size")
        if mask_resize not in MASK_RESIZES:
            raise InputError(f"mask_resize {mask_resize!r} is unknown: use one of {', '.join(MASK_RESIZES)}")
        self.tower = tower
        self.size = size
        self.crop_size = crop_size or tower.native_size
        self.dense_mode = dense_mode
        self.mask_resize = mask_resize
        self.skip_padding = skip_padding

    @torch.no_grad()
    def forward(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Embed the regions of a batch of images.

        Args:
            inputs: per image ``image`` (3 x H x W uint8) and any of ``boxes`` and ``crop_boxes`` (`Boxes` in pixels of
                the image) and ``masks`` (R x H x W bool).

        Returns:
            Per image those of ``boxes``, ``masks`` and ``crops`` (of the crop_boxes) that it asks for: R x C unit
            embeddings, fp32, on the tower's device.
        """
        images = [x["image"] for x in inputs]
        none = torch.zeros(0, 4)
        outputs: list[dict[str, Tensor]] = [{} for _ in inputs]
        if any("boxes" in x or "masks" in x for x in inputs):
            boxes = [x["boxes"].tensor if "boxes" in x else none for x in inputs]
            masks = [x["masks"] if "masks" in x else torch.zeros(0, *x["image"].shape[1:]) for x in inputs]
            by_box, by_mask = self.embed_regions(images, boxes, masks)
            for x, output, of_boxes, of_masks in zip(inputs, outputs, by_box, by_mask, strict=True):
                output.update({"boxes": of_boxes} if "boxes" in x else {})
                output.update({"masks": of_masks} if "masks" in x else {})
        if any("crop_boxes" in x for x in inputs):
            crops = [x["crop_boxes"].tensor if "crop_boxes" in x else none for x in inputs]
            for x, output, of_crops in zip(inputs, outputs, self.embed_crops(images, crops), strict=True):
                output.update({"crops": of_crops} if "crop_boxes" in x else {})
        return outputs

    def embed_regions(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Embed boxes (R_i x 4 in pixels of the images) and masks (R_i x H_i x W_i) from one dense forward.

        Returns:
            Per image the embeddings of its boxes, and of its masks.
        """
        counts = [len(box) for box in boxes]
        letterboxed = letterbox_images(self.tower, images, self.size)
        if self.dense_mode != "masked":
            features = dense_features(
                self.tower, letterboxed, dense_mode=self.dense_mode, skip_padding=self.skip_padding
            )
            by_box = features.pool_boxes(boxes).split(counts)
            return list(by_box), features.pool_masks(masks, self.mask_resize)
        pixels, scales, _ = letterboxed
        grid, stride = self.size // self.tower.stride, self.tower.stride
        cells = [
            torch.cat(
                [
                    _box_cells(box.to(pixels.device) * scale / stride, grid),
                    letterbox_masks(mask.to(pixels.device), grid, self.mask_resize) > 0,
                ]
            )
            for box, mask, scale in zip(boxes, masks, scales, strict=True)
        ]
        embeddings = [F.normalize(e.float(), dim=-1) for e in self.tower.masked_embeddings(pixels, cells)]
        both = list(zip(embeddings, counts, strict=True))
        return [e[:n] for e, n in both], [e[n:] for e, n in both]

    def embed_crops(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embed image crops (R_i x 4 in pixels of the images) as CLIPSelf's teacher does."""
        return list(embed_crops(self.tower, images, boxes, self.crop_size).split([len(box) for box in boxes]))


def _box_cells(boxes: Tensor, grid: int) -> Tensor:
    """Boxes in cells, both ends rounded down (released code) -> R x grid x grid bool; empty for one within a cell."""
    start, end = boxes.floor().split(2, dim=1)
    cell = torch.arange(grid, device=boxes.device)
    inside = (cell >= start[..., None]) & (cell < end[..., None])  # R x (x, y) x grid
    return inside[:, 1, :, None] & inside[:, 0, None, :]
