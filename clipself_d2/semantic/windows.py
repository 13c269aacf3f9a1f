"""Windows of a Swin transformer, shifted or not: maps to windows and back.

A map of any size is padded below and to the right to whole windows. A shift of the windows is a roll of the map; the
mask separates locations that were not neighbors before the roll.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """Cut maps into windows.

    Args:
        x: N x h x w x D.
        window: side of a window.
        shift: rows and columns to shift the windows down and right, less than `window`.

    Returns:
        W x N x window ** 2 x D, the W windows in row-major order.
    """
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.permute(1, 3, 0, 2, 4, 5).flatten(3, 4).flatten(0, 1)


def from_windows(windows: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    """Undo `to_windows`: W x N x window ** 2 x D to N x h x w x D, where `size` is (h, w)."""
    height, width = size
    rows = -(-height // window)
    x = windows.unflatten(2, (window, window)).unflatten(0, (rows, -1))
    x = x.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x[:, :height, :width]


def window_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor | None:
    """Build the attention mask within windows.

    Args:
        size: rows and columns of the map.
        window: see `to_windows`.
        shift: see `to_windows`.
        device: device of the mask.

    Returns:
        W x window ** 2 x window ** 2 bool, True where a location may attend to another; None if all may.
    """
    if not shift and size[0] % window == 0 and size[1] % window == 0:
        return None
    part = torch.zeros(1, *(-(-side // window) * window for side in size), 1, device=device)
    # Locations that the roll brings from the opposite side are a part of their own, and the padding is one too.
    part[:, :shift] += 1
    part[:, :, :shift] += 2
    part[:, size[0] :] = -1
    part[:, :, size[1] :] = -1
    parts = to_windows(part, window, shift)[:, 0, :, 0]
    return parts[:, :, None] == parts[:, None]
