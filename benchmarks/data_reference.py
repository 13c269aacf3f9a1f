"""The released recipe's samples for distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import harness
import numpy as np
import reference
import torch
from torch import Tensor

from clipself_d2.data import DistillationMapper, read_image
from clipself_d2.regions import GridRegions, crop_and_resize

GRAY_TOLERANCE = 0.5  # most that the crops may differ by in the mean, in gray levels

_SLOTS = 20  # crops that every sample is padded to in the released code
_MEAN = torch.tensor([0.4815, 0.4578, 0.4082])[:, None, None]
_STD = torch.tensor([0.2686, 0.2613, 0.2758])[:, None, None]


class ReferenceMapper:
    """The released recipe's samples.

    Args:
        student_size: side of the square that the image is letterboxed into, in pixels.
        teacher_size: side of a crop.
    """

    def __init__(self, student_size: int, teacher_size: int) -> None:
        self.student_size = student_size
        self.teacher_size = teacher_size
        self.regions = GridRegions(max_regions=_SLOTS)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` 3 x S x S, `boxes` 20 x 5 (corners as parts of S, valid), `crops` 20 x 3 x c x c."""
        image = read_image(record["file_name"])
        regions, views, _ = self.regions(record["image_id"], image.shape[1], image.shape[2], rng)
        boxes = torch.zeros(_SLOTS, 5)
        boxes[: len(regions), :4] = regions / max(image.shape[1:])
        boxes[: len(regions), 4] = 1
        crops = torch.zeros(_SLOTS, 3, self.teacher_size, self.teacher_size)
        for slot, view in zip(crops, views.tolist(), strict=False):
            slot.copy_((reference.crop(image, view, self.teacher_size) / 255 - _MEAN) / _STD)
        pixels = (reference.letterbox(image, self.student_size) / 255 - _MEAN) / _STD
        return {"image": pixels, "boxes": boxes, "crops": crops}


def agree(record: Mapping[str, Any], student_size: int, teacher_size: int) -> dict[str, float]:
    """Compare boxes and crops of one image, ours decoded whole.

    Raises:
        RunError: beyond the tolerances.
    """
    ours = DistillationMapper(GridRegions())(record, np.random.default_rng(0))
    theirs = ReferenceMapper(student_size, teacher_size)(record, np.random.default_rng(0))
    valid = theirs["boxes"][:, 4] > 0
    boxes = ours["regions"].tensor / max(ours["height"], ours["width"])
    crops = crop_and_resize(ours["image"], ours["crop_boxes"].tensor, teacher_size)
    expected = (theirs["crops"][valid] * _STD + _MEAN) * 255
    return harness.check_agreement(
        box_difference=(float((boxes - theirs["boxes"][valid, :4]).abs().max()), 0, 1e-5),
        gray_levels=(float((crops - expected).abs().mean()), 0, GRAY_TOLERANCE),
    )
