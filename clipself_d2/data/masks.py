"""Masks of objects as a json has them: checked, so that pycocotools can neither crash nor fill the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from clipself_d2.schema import RunLength

_LONGEST_OUTLINE = 100  # times the sides of the image; pycocotools takes memory for every pixel of an outline


def check_segmentation(
    segmentation: list[Any] | RunLength, height: int, width: int
) -> list[list[float]] | dict[str, Any]:
    """Check an object's mask.

    Args:
        segmentation: polygons x, y, ...; or one polygon; or run lengths.
        height: of the image, in pixels.
        width: of the image.

    Returns:
        Polygons of three points or more, which may be none; or compressed run lengths.

    Raises:
        ValueError: a mask that is none of this image.
    """
    if isinstance(segmentation, RunLength):
        return _check_run_length(segmentation, height, width)
    polygons = [segmentation] if all(isinstance(x, float) for x in segmentation) else segmentation
    if any(isinstance(polygon, float) for polygon in polygons):
        raise ValueError("mixes numbers and polygons")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
    side = max(height, width)
    for polygon in polygons:
        low, high = min(polygon), max(polygon)
        if low < -side or high > 2 * side:
            raise ValueError(f"reaches from {low:g} to {high:g}, far outside the image of {width} x {height} pixels")
        longest = _LONGEST_OUTLINE * (height + width)
        if len(polygon) * (high - low) > longest:
            corners = np.array(polygon).reshape(-1, 2)
            if np.abs(corners - np.roll(corners, 1, axis=0)).sum() > longest:
                raise ValueError(f"has an outline that is longer than {longest} pixels")
    return polygons


def _check_run_length(mask: RunLength, height: int, width: int) -> dict[str, Any]:
    if mask.size != [height, width]:
        raise ValueError(f"has the size {mask.size} (height, width), its image [{height}, {width}]")
    counts = mask.counts.encode() if isinstance(mask.counts, str) else mask.counts
    pixels = sum(run_lengths(counts) if isinstance(counts, bytes) else counts)
    if pixels != height * width:
        raise ValueError(f"has counts of {pixels} pixels, its image {height * width}")
    rle = {"size": mask.size, "counts": counts}
    return rle if isinstance(counts, bytes) else coco_mask.frPyObjects(rle, height, width)


def run_lengths(counts: bytes) -> list[int]:
    """Decompress COCO's run lengths.

    A number is written in groups of 5 bits, the lowest first; from the fourth on it is the difference to the number
    two before.

    Raises:
        ValueError: if these are no run lengths.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0) + 1  # of numbers
    lengths = np.diff(ends, prepend=0)
    if not len(ends) or ends[-1] < len(digits) or not 0 <= digits.min() <= digits.max() < 64 or lengths.max() > 7:
        raise ValueError("has counts that are no run lengths")
    starts = ends - lengths
    shift = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 31) << shift, starts)
    runs -= (digits[ends - 1] >> 4 & 1) << 5 * lengths  # the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("has counts that are no run lengths")
    return runs.tolist()
