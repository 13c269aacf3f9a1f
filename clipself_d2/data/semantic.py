"""Samples to train a semantic segmentor with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

from clipself_d2.data.detection import View
from clipself_d2.data.panoptic import PanopticMapper
from clipself_d2.errors import InputError


class SemanticMapper:
    """A square crop of a photograph and its labels (CAT-Seg's recipe); a function of record and generator alone.

    The short side becomes ``size`` pixels, a window of size x size is taken anywhere along the long one, mirrored with
    probability ``flip``, and its colours are changed (`jitter_colours`) if ``colours`` is set.
    """

    def __init__(self, size: int, flip: float = 0.5, colours: bool = True):
        """Sets the recipe.

        Args:
            size: side of the crop in pixels.
            flip: probability of mirroring, 0..1.
            colours: whether to change brightness, contrast, saturation and hue.

        Raises:
            InputError: if a value is out of its range.
        """
        if size < 1 or not 0 <= flip <= 1:
            raise InputError(f"SemanticMapper: size {size} must be positive, flip {flip} within 0..1")
        self.size = size
        self.flip = flip
        self.colours = colours
        self.read = PanopticMapper()

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError if the data set has no labels."""
        if not any("sem_seg_file_name" in r or "pan_seg_file_name" in r for r in records):
            raise InputError("the data set of the segmentor has no labels: name a semantic one (datasets/README.md)")

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Maps a record to a training sample.

        Args:
            record: see `PanopticMapper`.
            rng: draws the window, the mirroring and the colours.

        Returns:
            ``image`` (3 x size x size uint8), ``sem_seg`` (size x size long), ``file_name``, ``sem_seg_file_name``
            and ``ignore_label`` where the record has them, ``image_id``, ``height`` and ``width`` of the photograph.

        Raises:
            ImageError: if a file cannot be read.
            InputError: if the labels are of another size than the photograph.
        """
        sample = self.read(record)
        source = sample["height"], sample["width"]
        long_side = self.size * max(source) / min(source)
        view = View.whole(source, long_side, rng.random() < self.flip).crop(self.size, rng)
        image = view.image(sample["image"])
        kept = ("file_name", "sem_seg_file_name", "ignore_label", "image_id", "height", "width")
        return {
            **{key: sample[key] for key in kept if key in sample},
            "image": jitter_colours(image, rng) if self.colours else image,
            "sem_seg": view.labels(sample["sem_seg"]),
        }


def jitter_colours(image: Tensor, rng: np.random.Generator) -> Tensor:
    """SSD's changes of colour, each with probability 1/2: brightness, contrast, saturation, hue.

    Up to 32 levels are added; contrast and saturation are multiplied by 0.5..1.5, the contrast before or after the
    colours; the hue is turned by up to 36 degrees.

    Args:
        image: 3 x H x W uint8.
        rng: draws all of it; the same number of draws whatever they are.
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
        image = colour.adjust_saturation(image, saturated)
    if hue:
        image = colour.adjust_hue(image, hue_turn)
    return image if contrast_first else scaled(image)
