"""Sliding windows: from an image to windows, and from scores of windows to scores of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.errors import InputError

Corner = tuple[int, int]
"""Row and column of the first pixel of a window."""


def window_corners(size: tuple[int, int], kernel: int, overlap: float = 1 / 3) -> list[Corner]:
    """Place square windows that cover an image.

    Along each axis a window starts every ``kernel * (1 - overlap)`` pixels (rounded down, as released). If these leave
    a remainder, the last window ends at the end of the image.

    Args:
        size: rows and columns of the image.
        kernel: side of a window.
        overlap: share of a window that the next one covers too, 0 <= overlap < 1; 1/3 in CAT-Seg.

    Returns:
        The corners of the windows in row-major order.

    Raises:
        InputError: a side of the image below that of a window, or an overlap out of range.
    """
    if min(size) < kernel:
        raise InputError(
            f"sliding window: the image is {size[1]} x {size[0]} pixels, a window {kernel} x {kernel}: enlarge the "
            "image, or take smaller windows"
        )
    if not 0 <= overlap < 1:
        raise InputError(f"sliding window: overlap={overlap} must be at least 0 and less than 1")
    stride = max(1, int(kernel * (1 - overlap) + 1e-6))
    rows, columns = (sorted({*range(0, side - kernel, stride), side - kernel}) for side in size)
    return [(top, left) for top in rows for left in columns]


def cut_windows(image: Tensor, corners: Sequence[Corner], kernel: int) -> Tensor:
    """Cut an image C x H x W into windows L x C x kernel x kernel."""
    return torch.stack([image[:, top : top + kernel, left : left + kernel] for top, left in corners])


def merge_windows(
    windows: Tensor, corners: Sequence[Corner], size: tuple[int, int], whole: Tensor | None = None
) -> Tensor:
    """Average the windows at each pixel, then average the result with the whole image's (CAT-Seg's released code).

    Args:
        windows: L x K x kernel x kernel scores.
        corners: corners of the windows, which together cover the image.
        size: rows and columns of the image.
        whole: K x h x w scores of the whole image, resized bilinearly; None for the windows alone.

    Returns:
        K x H x W float32.
    """
    kernel = windows.shape[-1]
    total = torch.zeros(windows.shape[1], *size, device=windows.device)
    count = torch.zeros(size, device=windows.device)
    for window, (top, left) in zip(windows, corners, strict=True):
        place = (..., slice(top, top + kernel), slice(left, left + kernel))
        total[place] += window
        count[place] += 1
    total /= count
    if whole is None:
        return total
    resized = F.interpolate(whole[None].float(), size, mode="bilinear", align_corners=False)[0]
    return total.add_(resized).div_(2)
