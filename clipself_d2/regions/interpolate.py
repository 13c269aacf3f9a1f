"""Bilinear resize of many maps in chunks of rows, to bound memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Most elements of the resized maps held at once: 256 MiB in fp32.
_MAX_ELEMENTS = 2**26
# On CPUs: 4 MiB, which stays in the caches for whatever is done to a chunk.
_IN_CACHE = 2**20


def interpolate_in_chunks(maps: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Resize maps bilinearly in chunks of rows; joined, they equal the resize of the whole.

    Args:
        maps: N x h x w.
        size: rows and columns of the result.

    Yields:
        A slice of rows, and these rows of all maps: N x rows x W fp32, at most 256 MiB (4 MiB on CPUs) or one row. The
        memory format is channels last, which makes an argmax over the maps fast.
    """
    height, width = size
    if not len(maps):
        return
    source = maps.shape[1]
    # The two source rows of each row of the result; PyTorch interpolates the columns.
    position = ((torch.arange(height, device=maps.device) + 0.5) * (source / height) - 0.5).clamp(0, source - 1)
    above = position.long()
    below = (above + 1).clamp(max=source - 1)
    fraction = (position - above)[:, None, None]
    limit = min(_MAX_ELEMENTS, _IN_CACHE) if maps.device.type == "cpu" else _MAX_ELEMENTS
    run = max(1, limit // (len(maps) * max(width, maps.shape[2])))
    table = maps.permute(1, 2, 0).contiguous()  # rows x columns x N
    for start in range(0, height, run):
        rows = slice(start, min(start + run, height))
        chunk = torch.lerp(table[above[rows]].float(), table[below[rows]].float(), fraction[rows])
        shape = (len(chunk), width)
        yield rows, F.interpolate(chunk[None].permute(0, 3, 1, 2), shape, mode="bilinear", align_corners=False)[0]
