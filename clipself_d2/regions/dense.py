"""The dense path: images of any size -> letterboxed squares -> one object with the dense maps, from which regions pool.

Every model that reads dense maps of letterboxed images goes through this file::

    features = dense_features(tower, letterbox_images(tower, images, size=1024))
    embeddings = features.pool_boxes(boxes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.regions import pooling
from clipself_d2.regions.crops import letterbox


class LetterboxedImages(NamedTuple):
    """A batch of images in the upper left of squares, as a tower reads them.

    Attributes:
        pixels: B x 3 x S x S, normalized; the padding, to the right and below, is black.
        scales: per image, the factor from its pixels to those of the square.
        sizes: per image, its height and width in the square, not rounded.
    """

    pixels: Tensor
    scales: list[float]
    sizes: list[tuple[float, float]]

    def resize(self, size: int) -> LetterboxedImages:
        """The same batch in squares of another size, bilinear."""
        factor = size / self.pixels.shape[-1]
        pixels = F.interpolate(self.pixels, size=(size, size), mode="bilinear", align_corners=False)
        scales = [scale * size / self.pixels.shape[-1] for scale in self.scales]
        return LetterboxedImages(pixels, scales, [(height * factor, width * factor) for height, width in self.sizes])


@dataclass(frozen=True)
class DenseFeatures:
    """What a tower computes for a batch of letterboxed images.

    Attributes:
        dense: B x C x g x g fp32 embeddings, unit norm over C; zeros where padding was skipped.
        blocks: per requested block its map of the whole square, likewise.
        scales: see `LetterboxedImages`.
        sizes: see `LetterboxedImages`.
        stride: pixels of the square per cell of `dense`.
    """

    dense: Tensor
    blocks: list[Tensor]
    scales: list[float]
    sizes: list[tuple[float, float]]
    stride: int

    def without_padding(self) -> list[Tensor]:
        """Per image the part of its dense map that holds something of it, C x h_i x w_i."""
        side = self.dense.shape[-1] * self.stride
        extents = ([_num_patches(length, self.stride, side) for length in size] for size in self.sizes)
        return [dense[:, :rows, :columns] for dense, (rows, columns) in zip(self.dense, extents, strict=True)]

    def pool_boxes(self, boxes: Sequence[Tensor]) -> Tensor:
        """RoIAlign over boxes.

        Args:
            boxes: per image R_i x 4 ``x0, y0, x1, y1`` in the image's own pixels.

        Returns:
            sum(R_i) x C unit embeddings, fp32, image by image. A box without area gives zeros.
        """
        scaled = [box * scale for box, scale in zip(boxes, self.scales, strict=True)]
        return pooling.pool_boxes(self.dense, scaled, self.stride)

    def pool_masks(self, masks: Sequence[Tensor], resize: str = "area") -> list[Tensor]:
        """Mean over masks.

        Args:
            masks: per image R_i x H_i x W_i bool, in the image's own pixels.
            resize: how masks are brought to the cells, see `resize_masks`.

        Returns:
            Per image R_i x C unit embeddings, fp32. A mask that covers no cell gives zeros.
        """
        device, grid = self.dense.device, self.dense.shape[-1]
        cells = (pooling.letterbox_masks(mask.to(device), grid, resize) for mask in masks)
        return [pooling.pool_masks(dense, weights) for dense, weights in zip(self.dense, cells, strict=True)]


def letterbox_images(tower: ImageTower, images: Sequence[Tensor], size: int) -> LetterboxedImages:
    """Bring images to squares and normalize them.

    Args:
        tower: a CLIP image tower, whose device and pixel statistics are used.
        images: 3 x H_i x W_i uint8 RGB, of any size, on any device.
        size: S, the side of the squares in pixels.
    """
    device = tower.pixel_mean.device
    pixels, scales = letterbox([image.to(device, non_blocking=True) for image in images], size)
    sizes = [(image.shape[-2] * scale, image.shape[-1] * scale) for image, scale in zip(images, scales, strict=True)]
    return LetterboxedImages(tower.normalize(pixels), scales, sizes)


def dense_features(
    tower: ImageTower,
    images: LetterboxedImages,
    *,
    blocks: Sequence[int] = (),
    dense_mode: str = "no_attn",
    skip_padding: bool = True,
) -> DenseFeatures:
    """Run a tower on letterboxed images.

    Args:
        tower: a CLIP image tower.
        images: of `letterbox_images`; the side must be a multiple of the tower's stride.
        blocks: 0-based numbers of the blocks whose maps are wanted too.
        dense_mode: dense mode of the tower.
        skip_padding: leave out the patches that hold nothing of the image, a quarter of all patches of a 4:3 image. The
            others keep their positions on the square; only what they attend to differs. Images whose patches have the
            same extent share a forward. False reads the padding too, as the released code does.
    """
    pixels, scales, sizes = images
    stride, side = tower.stride, pixels.shape[-1]
    if not skip_padding:
        return DenseFeatures(*tower.features(pixels, blocks, dense_mode), scales, sizes, stride)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (height, width) in enumerate(sizes):
        extent = _num_patches(height, stride, side), _num_patches(width, stride, side)
        groups.setdefault(extent, []).append(number)
    parts: list[list[Tensor]] = []
    for (rows, columns), members in groups.items():
        index = torch.tensor(members).to(pixels.device, non_blocking=True)
        part = pixels[:, :, : rows * stride, : columns * stride].index_select(0, index)
        dense, maps = tower.features(part, blocks, dense_mode, padded_size=side)
        parts.append([_pad_map(map_, rows, side // stride) for map_ in (dense, *maps)])
    if len(parts) == 1:
        [[dense, *maps]] = parts
    else:
        order = torch.tensor([number for members in groups.values() for number in members]).argsort()
        order = order.to(pixels.device, non_blocking=True)
        dense, *maps = (torch.cat(kind)[order] for kind in zip(*parts, strict=True))
    return DenseFeatures(dense, maps, scales, sizes, stride)


def _num_patches(length: float, stride: int, side: int) -> int:
    """Patches that hold something of the image; a rounding error of the letterbox's factor does not count."""
    return min(side // stride, max(1, -int(-(length / stride - 1e-6) // 1)))


def _pad_map(map_: Tensor, rows: int, grid: int) -> Tensor:
    """Pad a map of `rows` rows of patches to grid x grid patches; stages of a ResNet have several cells per patch."""
    side = grid * map_.shape[-2] // rows
    return F.pad(map_, (0, side - map_.shape[-1], 0, side - map_.shape[-2]))
