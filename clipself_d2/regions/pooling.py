"""Pooling a region's embedding from a dense map (paper, equation 1): RoIAlign for boxes, means for masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from clipself_d2.errors import InputError

MASK_RESIZES = ("area", "bicubic", "bicubic_antialias")

_EPS = 1e-12
# Most float elements of the masks that are resized at once: 256 MiB.
_MAX_ELEMENTS = 2**26


def pool_boxes(dense: Tensor, boxes: Sequence[Tensor], stride: float) -> Tensor:
    """Average the dense map over boxes: RoIAlign with one bin, adaptive sampling, half-pixel aligned.

    Args:
        dense: B x C x h x w, unit norm over C.
        boxes: per image R_i x 4 ``x0, y0, x1, y1`` in pixels of the tower's input.
        stride: pixels of the tower's input per cell of the map.

    Returns:
        sum(R_i) x C fp32 unit embeddings, image by image. A box without area gives zeros.
    """
    # roi_align has no bfloat16, and averages over many cells need fp32 anyway.
    with torch.autocast(dense.device.type, enabled=False):
        pooled = roi_align(
            dense.float(), to_rois(boxes, dense.device), 1, spatial_scale=1 / stride, sampling_ratio=-1, aligned=True
        )
        return F.normalize(pooled.flatten(1), dim=-1, eps=_EPS)


def to_rois(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """Boxes of images, R_i x 4, as RoIAlign takes them: sum(R_i) x 5 fp32, the index of the image first."""
    flat = torch.cat(list(boxes)).float()
    images = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(each) for each in boxes]))
    return torch.cat([images[:, None].to(flat, non_blocking=True), flat], dim=1).to(device, non_blocking=True)


def pool_masks(dense: Tensor, masks: Tensor) -> Tensor:
    """Average the dense map over masks.

    Args:
        dense: C x h x w, unit norm over C.
        masks: R x h x w weights of the cells, 0..1 or bool; see `letterbox_masks`.

    Returns:
        R x C fp32 unit embeddings. A mask without weight gives zeros.
    """
    with torch.autocast(dense.device.type, enabled=False):
        weights = masks.to(dense.device, torch.float32)
        weights = weights / weights.sum(dim=(1, 2), keepdim=True).clamp(min=_EPS)
        return F.normalize(torch.einsum("chw,rhw->rc", dense.float(), weights), dim=-1, eps=_EPS)


def resize_masks(masks: Tensor, size: tuple[int, int], method: str = "area") -> Tensor:
    """Resize masks to the grid of a dense map.

    Args:
        masks: R x H x W bool.
        size: rows and columns of the grid.
        method: ``"area"``: a cell's weight is the part of its area that the mask covers; no mask vanishes.
            ``"bicubic"``: cells where the bicubic resize without antialias is above 0 weigh 1, as in the released code
            with torchvision before 0.17; small masks may vanish. ``"bicubic_antialias"``: the same with antialias, as
            with later versions; dilates masks by up to two cells.

    Returns:
        R x h x w float weights in 0..1.

    Raises:
        InputError: an unknown method.
    """
    if method not in MASK_RESIZES:
        raise InputError(f"mask resize {method!r} is unknown: use one of {', '.join(MASK_RESIZES)}")
    if method == "area":
        down, across = (_overlaps(*sides, masks.device) for sides in zip(size, masks.shape[-2:], strict=True))
        return _in_runs(masks, lambda part: _area(part, down, across))
    return _in_runs(masks, lambda part: _bicubic(part, size, method))


def letterbox_masks(masks: Tensor, grid: int, method: str = "area") -> Tensor:
    """Resize masks of an image to the square dense map of the letterboxed image: zero to the right and below.

    Args:
        masks: R x H x W bool, in pixels of the image.
        grid: rows, and columns, of the dense map.
        method: see `resize_masks`. ``"area"`` is exact even for a cell within which the image ends; the bicubic ones
            round the content to whole cells, as the released code does.

    Returns:
        R x grid x grid float weights in 0..1.
    """
    height, width = masks.shape[-2:]
    longest = max(height, width)
    if method == "area":
        down, across = (_overlaps(grid, longest, masks.device)[:, :side] for side in (height, width))
        return _in_runs(masks, lambda part: _area(part, down, across))
    rows, columns = (max(1, round(side * grid / longest)) for side in (height, width))
    return F.pad(resize_masks(masks, (rows, columns), method), (0, grid - columns, 0, grid - rows))


def _in_runs(masks: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Resize masks in runs of bounded memory, as floats."""
    run = max(1, _MAX_ELEMENTS // max(1, masks.shape[-2] * masks.shape[-1]))
    with torch.autocast(masks.device.type, enabled=False):
        return torch.cat([resize(part.float()) for part in masks.split(run)])


def _bicubic(masks: Tensor, size: tuple[int, int], method: str) -> Tensor:
    resized = F.interpolate(
        masks[:, None], size, mode="bicubic", align_corners=False, antialias=method == "bicubic_antialias"
    )
    return (resized[:, 0] > 0).float()


def _area(masks: Tensor, down: Tensor, across: Tensor) -> Tensor:
    return (down @ (masks @ across.mT)).clamp(max=1)


def _overlaps(cells: int, pixels: int, device: torch.device) -> Tensor:
    """The part of each cell's length that each pixel covers: cells x pixels, rows sum to 1."""
    cell = torch.arange(cells, device=device, dtype=torch.float64)[:, None] * (pixels / cells)
    pixel = torch.arange(pixels, device=device, dtype=torch.float64)
    overlap = (pixel + 1).minimum(cell + pixels / cells) - pixel.maximum(cell)
    return (overlap.clamp(min=0) * (cells / pixels)).float()
