"""Maps as windows and back, shifted or not: what the attention of a Swin transformer looks through.

A map of any size is filled up, below and to the right, to whole windows. When the windows are shifted, the map is
rolled instead, and the mask parts what was not neighbours before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """Cuts maps into windows.

    Args:
        x: N x h x w x D.
        window: side of a window.
        shift: rows and columns that the windows lie further down and right, less than `window`.

    Returns:
        W x N x window ** 2 x D, the W windows row by row.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.permute(1, 3, 0, 2, 4, 5).flatten(3, 4).flatten(0, 1)


def from_windows(windows: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    """The maps that `to_windows` cut: N x h x w x D."""
    height, width = size
    rows = -(-height // window)
    x = windows.unflatten(2, (window, window)).unflatten(0, (rows, -1))
    x = x.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x[:, :height, :width]


def window_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor | None:
    """Which location of a window may look at which.

    Args:
        size: rows and columns of the map.
        window: side of a window.
        shift: see `to_windows`.
        device: where the mask is wanted.

    Returns:
        W x window ** 2 x window ** 2 bool, or None where everything is seen.
    """
    if not shift and size[0] % window == 0 and size[1] % window == 0:
        return None
    part = torch.zeros(1, *(-(-side // window) * window for side in size), 1, device=device)
    # What a roll brings from the other side of the map is a part of its own, and so is what fills the map up.
    part[:, :shift] += 1
    part[:, :, :shift] += 2
    part[:, size[0] :] = -1
    part[:, :, size[1] :] = -1
    parts = to_windows(part, window, shift)[:, 0, :, 0]
    return parts[:, :, None] == parts[:, None]
