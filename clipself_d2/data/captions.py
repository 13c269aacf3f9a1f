"""Training samples with captions: an image and one of its captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipself_d2.data.image import read_image
from clipself_d2.errors import InputError


class CaptionMapper:
    """Reads an image and draws one of its captions: a function of the record and the generator alone."""

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise InputError if an image of the data set has no captions."""
        bare = next((record for record in records if not record.get("captions")), None)
        if bare is not None:
            raise InputError(
                f"{bare['file_name']}: has no captions: name a data set with captions (datasets/README.md)"
            )

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Map a record of `load_captioned_images` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``caption``, ``file_name``, ``image_id``, ``height`` and ``width``.

        Raises:
            ImageError: if the image cannot be read.
        """
        image = read_image(record["file_name"])
        return {
            "image": image,
            "caption": record["captions"][rng.integers(len(record["captions"]))],
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": image.shape[1],
            "width": image.shape[2],
        }
