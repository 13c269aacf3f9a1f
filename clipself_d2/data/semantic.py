"""Training samples for semantic segmentation: a square crop of the image and its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as color

from clipself_d2.data.panoptic import PanopticMapper
from clipself_d2.data.transforms import random_resize_crop
from clipself_d2.errors import InputError


class SemanticMapper:
    """A square crop of an image and its labels (CAT-Seg's recipe): a function of the record and the generator alone.

    The short side becomes `size` pixels, and a window of size x size is taken anywhere along the long side. It is
    mirrored, and its colors change.

    Args:
        size: side of the crop in pixels.
        flip: probability of mirroring, 0..1.
        colors: whether to change brightness, contrast, saturation and hue (`jitter_colors`).

    Raises:
        InputError: if a value is out of its range.
    """

    def __init__(self, size: int, flip: float = 0.5, colors: bool = True):
        if size < 1 or not 0 <= flip <= 1:
            raise InputError(f"SemanticMapper: size {size} must be positive, flip {flip} within 0..1")
        self.size = size
        self.flip = flip
        self.colors = colors
        self.read = PanopticMapper()

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise InputError if the data set has no labels."""
        if not any("sem_seg_file_name" in r or "pan_seg_file_name" in r for r in records):
            raise InputError("the data set of the segmentor has no labels: name a semantic one (datasets/README.md)")

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Map a record to a training sample.

        Args:
            record: see `PanopticMapper`.
            rng: draws the mirroring, the window and the colors.

        Returns:
            ``image`` (3 x size x size uint8), ``sem_seg`` (size x size long), ``file_name``, ``sem_seg_file_name``
            and ``ignore_label`` where the record has them, ``image_id``, ``height`` and ``width`` of the whole image.

        Raises:
            ImageError: if a file cannot be read.
            InputError: if the labels are of another size than the image.
        """
        sample = self.read(record)
        source = sample["height"], sample["width"]
        long_side = self.size * max(source) / min(source)
        transforms, _ = random_resize_crop(source, long_side, self.size, self.flip, rng)
        pixels = transforms.apply_image(sample["image"].permute(1, 2, 0).contiguous().numpy())
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        labels = transforms.apply_segmentation(sample["sem_seg"].numpy())
        kept = ("file_name", "sem_seg_file_name", "ignore_label", "image_id", "height", "width")
        return {
            **{key: sample[key] for key in kept if key in sample},
            "image": jitter_colors(image, rng) if self.colors else image,
            "sem_seg": torch.from_numpy(labels.astype(np.int64)),
        }


def jitter_colors(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Apply SSD's changes of color, each with probability 1/2: brightness, contrast, saturation, hue.

    Up to 32 levels are added to or taken from all values. Contrast and saturation are multiplied by 0.5..1.5, the
    contrast before or after the colors. The hue turns by up to 36 degrees.

    Args:
        image: 3 x H x W uint8.
        rng: draws all of it; the number of draws is always the same.
    """
    brightness, contrast, saturation, hue, contrast_first = rng.random(5) < 0.5
    added, hue_turn = rng.uniform(-32, 32), rng.uniform(-0.1, 0.1)
    multiplied, saturated = rng.uniform(0.5, 1.5, size=2)

    def scaled(image: Tensor) -> Tensor:
        return (image.float() * multiplied).clamp(0, 255).to(torch.uint8) if contrast else image

    if brightness:
        image = (image.float() + added).clamp(0, 255).to(torch.uint8)
    if contrast_first:
        image = scaled(image)
    if saturation:
        image = color.adjust_saturation(image, saturated)
    if hue:
        image = color.adjust_hue(image, hue_turn)
    return image if contrast_first else scaled(image)
