"""RoIAlign over a pyramid whose strides may be any numbers (Detectron2's pooler asks for powers of two)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from clipself_d2.detection.sparse_roi_align import sparse_roi_align


def assign_levels(boxes: Tensor, num_levels: int, canonical_size: float = 56.0) -> Tensor:
    """The level of each box by its size: 0 below twice the canonical size, then one more each doubling.

    Args:
        boxes: R x 4 in pixels.
        num_levels: levels 0 .. num_levels - 1.
        canonical_size: the side of a box at the lower end of level 0, in pixels (released code).

    Returns:
        R longs.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    levels = torch.log2(area.sqrt() / canonical_size + 1e-6).floor()
    return levels.clamp(0, num_levels - 1).long()


class RegionPooler:
    """Pools boxes from the level that suits their size.

    Args:
        output_size: bins of a side.
        strides: of the levels, in pixels, fine to coarse.
        canonical_size: see `assign_levels`.
    """

    def __init__(self, output_size: int, strides: Sequence[float], canonical_size: float = 56.0) -> None:
        self.output_size = output_size
        self.strides = list(strides)
        self.canonical_size = canonical_size

    def __call__(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool.

        Args:
            maps: for every level B x D x h x w.
            boxes: for every image R_i x 4 in pixels.

        Returns:
            sum(R_i) x D x s x s, fp32 (RoIAlign knows no bfloat16), image by image.
        """
        device = maps[0].device
        images = torch.arange(len(boxes), device=device).repeat_interleave(
            torch.tensor([len(b) for b in boxes], device=device)
        )
        flat = torch.cat(list(boxes)).float()
        rois = torch.cat([images[:, None].to(flat), flat], dim=1)
        levels = assign_levels(flat, len(maps), self.canonical_size)
        if device.type == "cpu":  # where torchvision's kernel is slow
            with torch.autocast("cpu", enabled=False):
                return sparse_roi_align(maps, rois, levels, self.strides, self.output_size)
        order = levels.argsort()
        shares = rois[order].split(levels.bincount(minlength=len(maps)).tolist())
        with torch.autocast(device.type, enabled=False):
            parts = [
                roi_align(x.float(), share, self.output_size, 1 / stride, sampling_ratio=-1, aligned=True)
                for x, share, stride in zip(maps, shares, self.strides, strict=True)
            ]
        pooled = torch.cat(parts)
        return torch.empty_like(pooled).index_copy(0, order, pooled)
