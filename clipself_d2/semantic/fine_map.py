"""The stride trick: a dense map finer than the tower's patches, from forwards of the image shifted by parts of a patch.

Of `factor` shifts along each axis the cells interleave to a map `factor` times finer. The shifts lie evenly around
zero, so that the fine map tiles the image as any map does: the centre of row r is at ``(r + 0.5) * stride / factor``
pixels, plus the `map_origin` where that would need half a pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.errors import InputError

# Most pixels of the images that are sent through the tower at once: 16 of 512 x 512.
_MAX_PIXELS = 2**22


def check_factor(stride: int, factor: int, name: str = "finer") -> None:
    """Raises an InputError unless the shifts are whole pixels.

    Args:
        stride: the tower's.
        factor: how many times finer the map is to be.
        name: the setting that holds it, for the message.
    """
    if factor < 1 or stride % factor:
        possible = [str(k) for k in range(1, stride + 1) if stride % k == 0]
        raise InputError(
            f"{name}={factor}: the tower's stride {stride} cannot be cut into so many shifts of whole pixels; use one "
            f"of {', '.join(possible)}"
        )


def map_origin(stride: int, factor: int) -> float:
    """Where the fine map's first cell begins, in pixels of the image: 0, or 0.5 if no whole shifts lie around zero."""
    return (factor - 1) * (stride // factor) % 2 / 2


def shifted_windows(images: Tensor, stride: int, factor: int) -> Tensor:
    """All shifts of a batch of images, as views of the padded batch; what a shift uncovers repeats the border.

    Args:
        images: B x 3 x H x W.
        stride: of the tower, pixels.
        factor: shifts along each axis, of ``stride / factor`` pixels; see `check_factor`.

    Returns:
        B x factor x factor x 3 x H x W; window (i, j) starts ``(i - (factor - 1) / 2) * stride / factor`` pixels, plus
        the `map_origin`, below the image's first row, and so by j to the right of its first column.
    """
    height, width = images.shape[-2:]
    step = stride // factor
    before = (factor - 1) * step // 2
    after = (factor - 1) * step - before
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    windows = padded.unfold(2, height, step).unfold(3, width, step)
    return windows.permute(0, 2, 3, 1, 4, 5)


def interleave(maps: Tensor) -> Tensor:
    """Puts the maps of the shifts together: B x k x k x C x h x w, by row and column shift, -> B x C x hk x wk."""
    return maps.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def fine_map(function: Callable[[Tensor, list[int]], Tensor], images: Tensor, stride: int, factor: int) -> Tensor:
    """Computes a dense map on a finer grid than the tower's.

    Args:
        function: from windows, N x 3 x H x W, and the number of the image that each is of, to maps, N x C x H / stride
            x W / stride; called with so many windows that their pixels are at most 4 Mi (or with one).
        images: B x 3 x H x W.
        stride: of the tower, pixels.
        factor: how many times finer along each axis, see `check_factor`; the function sees ``factor ** 2`` windows of
            each image.

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
