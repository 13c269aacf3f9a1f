"""RoIAlign on pyramids of any strides, such as 3.5, 7, 14, 28 of L/14; Detectron2's pooler needs powers of two."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torchvision.ops import roi_align

from clipself_d2.detection.sparse_roi_align import sparse_roi_align
from clipself_d2.regions.pooling import to_rois


def assign_levels(boxes: Tensor, num_levels: int, canonical_size: float = 56.0) -> Tensor:
    """Assign each box to a level by its size: level 0 below twice the canonical size, one more for each doubling.

    Args:
        boxes: R x 4 in pixels.
        num_levels: number of levels.
        canonical_size: side in pixels of a box at the lower end of level 0 (released code).

    Returns:
        R long, 0 .. num_levels - 1.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    levels = torch.log2(area.sqrt() / canonical_size + 1e-6).floor()
    return levels.clamp(0, num_levels - 1).long()


class RegionPooler:
    """Pools each box from the level that fits its size.

    Args:
        output_size: bins per side.
        strides: strides of the levels in pixels, fine to coarse.
        canonical_size: see `assign_levels`.
    """

    def __init__(self, output_size: int, strides: Sequence[float], canonical_size: float = 56.0) -> None:
        self.output_size = output_size
        self.strides = list(strides)
        self.canonical_size = canonical_size

    def __call__(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool boxes.

        Args:
            maps: B x D x h x w per level.
            boxes: R_i x 4 in pixels per image.

        Returns:
            sum(R_i) x D x s x s, image by image. It is fp32, because RoIAlign does not support bfloat16.
        """
        device = maps[0].device
        rois = to_rois(boxes, device)
        levels = assign_levels(rois[:, 1:], len(maps), self.canonical_size)
        if device.type == "cpu":  # torchvision's kernel is slow there, see `sparse_roi_align`
            with torch.autocast("cpu", enabled=False):
                return sparse_roi_align(maps, rois, levels, self.strides, self.output_size)
        # A box of another level shrinks to a point, of which RoIAlign samples nothing: its zeros cost less than a wait
        # of the host for the number of boxes per level.
        with torch.autocast(device.type, enabled=False):
            parts = (
                roi_align(
                    x.float(),
                    torch.cat([rois[:, :1], rois[:, 1:].where((levels == level)[:, None], 0)], dim=1),
                    self.output_size,
                    1 / stride,
                    sampling_ratio=-1,
                    aligned=True,
                )
                for level, (x, stride) in enumerate(zip(maps, self.strides, strict=True))
            )
            return reduce(torch.add, parts)
