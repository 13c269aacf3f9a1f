"""The stride trick: a dense map finer than the patches of the tower, from forwards of shifted images.

The maps of `factor` shifts along each axis interleave to a map that is `factor` times finer. The shifts lie evenly
around zero: the center of row r is at ``(r + 0.5) * stride / factor`` pixels, plus the `map_origin`, which is half a
pixel where whole-pixel shifts cannot lie evenly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.errors import InputError

# Most pixels that go through the tower at once: 16 images of 512 x 512.
_MAX_PIXELS = 2**22


def check_factor(stride: int, factor: int, name: str = "finer") -> None:
    """Raise an InputError unless the shifts are whole pixels.

    Args:
        stride: stride of the tower in pixels.
        factor: how many times finer the map becomes along each axis.
        name: name of the setting in the message.
    """
    if factor < 1 or stride % factor:
        possible = [str(k) for k in range(1, stride + 1) if stride % k == 0]
        raise InputError(
            f"{name}={factor}: does not divide the tower's stride {stride} into whole pixels; use one of "
            f"{', '.join(possible)}"
        )


def map_origin(stride: int, factor: int) -> float:
    """Return the start of the fine map's first cell in pixels of the image: 0, or 0.5 if the shifts cannot be even."""
    return (factor - 1) * (stride // factor) % 2 / 2


def shifted_windows(images: Tensor, stride: int, factor: int) -> Tensor:
    """Return all shifts of a batch of images, as views of the padded batch; the padding repeats the border.

    Args:
        images: B x 3 x H x W.
        stride: stride of the tower in pixels.
        factor: number of shifts along each axis, ``stride / factor`` pixels apart; see `check_factor`.

    Returns:
        B x factor x factor x 3 x H x W. Window (i, j) starts ``(i - (factor - 1) / 2) * stride / factor`` pixels, plus
        the `map_origin`, below the first row of the image, and likewise by j to the right of its first column.
    """
    height, width = images.shape[-2:]
    step = stride // factor
    before = (factor - 1) * step // 2
    after = (factor - 1) * step - before
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    windows = padded.unfold(2, height, step).unfold(3, width, step)
    return windows.permute(0, 2, 3, 1, 4, 5)


def interleave(maps: Tensor) -> Tensor:
    """Merge the maps of the shifts: B x k x k x C x h x w (row shift, column shift) to B x C x hk x wk."""
    return maps.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def fine_map(function: Callable[[Tensor, list[int]], Tensor], images: Tensor, stride: int, factor: int) -> Tensor:
    """Compute a dense map on a finer grid than the tower's.

    Args:
        function: maps windows, N x 3 x H x W, and the batch indices of their images to N x C x H / stride x W / stride.
            A call gets windows of up to 4 Mi pixels together, at least one.
        images: B x 3 x H x W.
        stride: stride of the tower in pixels.
        factor: how many times finer the map becomes along each axis, see `check_factor`. `function` gets
            ``factor ** 2`` windows of each image.

    Returns:
        B x C x H * factor / stride x W * factor / stride.
    """
    windows = shifted_windows(images, stride, factor)
    run = max(1, _MAX_PIXELS // (images.shape[-2] * images.shape[-1]))
    # Windows are views of one image: only those of a run are copied.
    numbers = torch.cartesian_prod(*map(torch.arange, windows.shape[:3]))
    maps = []
    for part in numbers.split(run):
        maps.append(function(windows[part.unbind(dim=1)], part[:, 0].tolist()))
    return interleave(torch.cat(maps).unflatten(0, windows.shape[:3]))
