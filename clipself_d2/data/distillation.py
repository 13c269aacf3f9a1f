"""Training samples for distillation: an image and regions drawn from it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor

from clipself_d2.data.image import image_size, read_image


class RegionSampler(Protocol):
    """Draws regions of an image: `GridRegions`, `ProposalRegions`, or another."""

    def __call__(
        self, image_id: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's boxes and the teacher's crops, both R x 4 in pixels, and the R numbers of the crops."""

    def num_crops(self, image_id: int) -> int:
        """Return the number of crops of an image; the crops count from 0."""

    def all_crops(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return every crop that may be drawn of an image, N x 4 in pixels, and their N numbers."""


class DistillationMapper:
    """Reads an image and draws its regions: a function of the record and the generator alone.

    Args:
        regions: e.g. ``GridRegions(max_split=6)``; it is given the size of the whole image.
        min_decode_size: sizes of student and teacher. Large JPEGs are then decoded at the smallest scale that keeps
            these pixels of the image's long side and of that of every crop that may be drawn, see `read_image`. The
            scale depends on the image alone, so that a cache of the teacher finds what it holds. None: whole.
    """

    def __init__(self, regions: RegionSampler, min_decode_size: tuple[int, int] | None = None):
        self.regions = regions
        self.min_decode_size = min_decode_size

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise InputError if the sampler of regions does not fit the data set."""
        if hasattr(self.regions, "check"):
            self.regions.check({record["image_id"] for record in records})

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Map a record of `load_image_list` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``image_key`` (see `image_key`), ``file_name``, ``image_id``, ``height`` and
            ``width`` of the whole image, the `Boxes` ``regions`` and ``crop_boxes`` (the teacher's view of each region)
            in pixels of ``image``, and ``crop_ids`` (R long), the numbers of the crops.

        Raises:
            ImageError: if the image cannot be read.
        """
        height, width = image_size(record["file_name"])
        regions, crops, crop_ids = self.regions(record["image_id"], height, width, rng)
        return self._sample(record, height, width, crop_ids, crop_boxes=crops, regions=regions)

    def all_crops(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample with every crop that may be drawn as ``crop_boxes``, and without ``regions``.

        Raises:
            ImageError: if the image cannot be read.
        """
        height, width = image_size(record["file_name"])
        crops, crop_ids = self.regions.all_crops(record["image_id"], height, width)
        return self._sample(record, height, width, crop_ids, crop_boxes=crops)

    def _sample(
        self, record: Mapping[str, Any], height: int, width: int, crop_ids: Tensor, **boxes: Tensor
    ) -> dict[str, Any]:
        image = read_image(record["file_name"], self._long_side(record["image_id"], height, width))
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
        return {
            "image": image,
            "image_key": image_key(Path(record["file_name"]).read_bytes(), *image.shape[1:]),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": height,
            "width": width,
            "crop_ids": crop_ids,
            **{name: Boxes(each * scale) for name, each in boxes.items()},
        }

    def _long_side(self, image_id: int, height: int, width: int) -> int | None:
        """Return the pixels that the image's long side must keep; None for all."""
        if self.min_decode_size is None:
            return None
        student, teacher = self.min_decode_size
        crops, whole = self.regions.all_crops(image_id, height, width)[0], max(height, width)
        smallest = (crops[:, 2:] - crops[:, :2]).amax(dim=1).min().item() if len(crops) else whole
        # The boxes' arithmetic may be off by half a percent of a pixel.
        return min(whole, max(student, math.ceil(teacher * whole / max(smallest, 1) - 0.005)))


def image_key(content: Any, height: int, width: int) -> bytes:
    """Hash an image as it was read, to 16 bytes.

    Args:
        content: bytes, or an array of them: of the file, or the pixels.
        height: of the image as it was decoded, since a file may be decoded at several sizes.
        width: of the same.
    """
    return hashlib.blake2b(content, digest_size=16, person=np.array([height, width], "<u4").tobytes()).digest()
