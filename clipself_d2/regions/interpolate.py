"""Maps resized to the photograph a band of rows at a time, so that hundreds of them are never held at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Most elements of the resized maps that are held at once: 256 MiB in fp32.
_MAX_ELEMENTS = 2**26
# And on CPUs, so that what is done to a band finds it in the caches: 4 MiB.
_IN_CACHE = 2**20


def interpolate_in_chunks(maps: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Resizes maps bilinearly, some rows at a time; together the bands are the whole, for no two differ from it.

    Args:
        maps: N x h x w.
        size: rows and columns of the result.

    Yields:
        A slice of the rows, and these rows of every map: N x rows x W float32, of at most 256 MiB or one row (on CPUs 4
        MiB). The values of a pixel are neighbours in memory (channels last), so that an argmax over the maps is fast.
    """
    height, width = size
    if not len(maps):
        return
    source = maps.shape[1]
    # The rows between which each row of the result lies; the columns are interpolated by the library.
    position = ((torch.arange(height, device=maps.device) + 0.5) * (source / height) - 0.5).clamp(0, source - 1)
    above = position.long()
    below = (above + 1).clamp(max=source - 1)
    fraction = (position - above)[:, None, None]
    limit = min(_MAX_ELEMENTS, _IN_CACHE) if maps.device.type == "cpu" else _MAX_ELEMENTS
    run = max(1, limit // (len(maps) * max(width, maps.shape[2])))
    table = maps.permute(1, 2, 0).contiguous()  # rows x columns x N
    for start in range(0, height, run):
        rows = slice(start, min(start + run, height))
        band = torch.lerp(table[above[rows]].float(), table[below[rows]].float(), fraction[rows])
        shape = (len(band), width)
        yield rows, F.interpolate(band[None].permute(0, 3, 1, 2), shape, mode="bilinear", align_corners=False)[0]
