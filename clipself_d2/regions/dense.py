"""The dense map of letterboxed images, with or without their padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.errors import InputError

if TYPE_CHECKING:
    from clipself_d2.clip import ImageTower

FITS = ("tight", "square")


def check_fit(fit: str) -> None:
    """Raise an InputError for an unknown fit; see `dense_map`."""
    if fit not in FITS:
        raise InputError(f"fit={fit!r}: use one of {', '.join(FITS)}")


def dense_map(
    tower: ImageTower, pixels: Tensor, sizes: Sequence[tuple[float, float]], mode: str = "value", fit: str = "tight"
) -> Tensor:
    """The tower's dense map of images in the upper left of a square.

    Args:
        tower: a CLIP image tower.
        pixels: B x 3 x S x S, normalised, padded to the right and below.
        sizes: height and width of each image in these pixels.
        mode: dense mode of the tower.
        fit: `"square"` reads the padding too, as the released code does: a quarter of all patches of a 4:3 photograph,
            which the others attend to. `"tight"` leaves out the patches that hold nothing of the photograph; the others
            keep their places on the square, so that the two differ in what is attended to alone. Images whose patches
            have the same extent share a forward.

    Returns:
        B x C x g x g unit embeddings, fp32; zero where `"tight"` has left the patches out.

    Raises:
        InputError: an unknown fit.
    """
    check_fit(fit)
    if fit == "square":
        return tower.dense_embeddings(pixels, mode=mode)
    side, stride = pixels.shape[-1], tower.stride
    groups: dict[tuple[int, int], list[int]] = {}
    for number, size in enumerate(sizes):
        rows, columns = (min(side // stride, max(1, _ceil(length / stride))) for length in size)
        groups.setdefault((rows, columns), []).append(number)
    maps: list[Tensor] = []
    for (rows, columns), members in groups.items():
        part = pixels[members, :, : rows * stride, : columns * stride]
        dense = tower.dense_embeddings(part, mode=mode, canvas=side)
        maps.append(F.pad(dense, (0, side // stride - columns, 0, side // stride - rows)))
    if len(maps) == 1:
        return maps[0]
    order = torch.tensor([number for members in groups.values() for number in members]).argsort()
    return torch.cat(maps)[order.to(pixels.device)]


def _ceil(patches: float) -> int:
    """Up to whole patches; a rounding error of the letterbox's factor is no patch."""
    return -int(-(patches - 1e-6) // 1)
