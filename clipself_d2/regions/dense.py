"""What a tower makes of letterboxed images, with or without their padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip.tower import ImageTower, TowerFeatures


def dense_map(
    tower: ImageTower,
    pixels: Tensor,
    sizes: Sequence[tuple[float, float]],
    dense_mode: str = "no_attn",
    skip_padding: bool = True,
) -> Tensor:
    """The dense map of `letterboxed_features` alone: B x C x g x g, fp32, unit embeddings or zeros."""
    return letterboxed_features(tower, pixels, sizes, (), dense_mode, skip_padding).dense


def letterboxed_features(
    tower: ImageTower,
    pixels: Tensor,
    sizes: Sequence[tuple[float, float]],
    blocks: Sequence[int] = (),
    dense_mode: str = "no_attn",
    skip_padding: bool = True,
) -> TowerFeatures:
    """The tower's features of images in the upper left of a square.

    Args:
        tower: a CLIP image tower.
        pixels: B x 3 x S x S, normalised, padded to the right and below.
        sizes: height and width of each image in these pixels.
        blocks: 0-based numbers of the blocks whose maps are wanted too.
        dense_mode: dense mode of the tower.
        skip_padding: leave out the patches that hold nothing of the image, a quarter of all patches of a 4:3 image. The
            others keep their positions on the square; only what they attend to differs. Images whose patches have the
            same extent share a forward. False reads the padding too, as the released code does.

    Returns:
        The dense map, B x C x g x g unit embeddings in fp32, and the map of each block, all of the whole square: zero
        where patches are left out.
    """
    if not skip_padding:
        return tower.features(pixels, blocks, dense_mode)
    side, stride = pixels.shape[-1], tower.stride
    groups: dict[tuple[int, int], list[int]] = {}
    for number, size in enumerate(sizes):
        rows, columns = (min(side // stride, max(1, _ceil(length / stride))) for length in size)
        groups.setdefault((rows, columns), []).append(number)
    parts: list[list[Tensor]] = []
    for (rows, columns), members in groups.items():
        part = pixels[members, :, : rows * stride, : columns * stride]
        dense, maps = tower.features(part, blocks, dense_mode, padded_size=side)
        parts.append([_on_square(map_, rows, side // stride) for map_ in (dense, *maps)])
    if len(parts) == 1:
        [[dense, *maps]] = parts
        return TowerFeatures(dense, maps)
    order = torch.tensor([number for members in groups.values() for number in members]).argsort().to(pixels.device)
    dense, *maps = (torch.cat(kind)[order] for kind in zip(*parts, strict=True))
    return TowerFeatures(dense, maps)


def _on_square(map_: Tensor, rows: int, grid: int) -> Tensor:
    """A map of `rows` rows of patches on a square of `grid` x `grid`; stages of a ResNet have several cells a patch."""
    side = grid * map_.shape[-2] // rows
    return F.pad(map_, (0, side - map_.shape[-1], 0, side - map_.shape[-2]))


def _ceil(patches: float) -> int:
    """Up to whole patches; a rounding error of the letterbox's factor is no patch."""
    return -int(-(patches - 1e-6) // 1)
