"""Training samples with named regions: boxes and their categories from a COCO-format json, such as pseudo pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from clipself_d2.data.image import read_record
from clipself_d2.errors import InputError
from clipself_d2.schema import Categories, NamedRegions, index_categories, read_json

logger = logging.getLogger(__name__)

_NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def load_category_names(json_file: str | Path) -> list[str]:
    """Read the names of a json's categories, in the order of their ids, which is that of `LabeledRegions`' classes.

    Raises:
        InputError: if the file cannot be read or has no categories, or two of one id or name.
    """
    categories = read_json(json_file, Categories).categories
    return [category.name for category in index_categories(categories, json_file).values()]


class LabeledRegions:
    """The regions of an image with their classes, as the released code takes its pseudo pairs.

    They are the first annotations of each image in the file, not shuffled. Crowds are left out, and boxes without area
    or wholly outside the image; other sizes are not.

    Args:
        json_file: see `schema.NamedRegions`.
        max_regions: the most regions per image (released code: 20).

    Attributes:
        names: the K classes.

    Raises:
        InputError: if the file cannot be read or is of another format, has no annotation or one with an unknown
            category, or max_regions is below 1.
    """

    def __init__(self, json_file: str | Path, max_regions: int = 20):
        if max_regions < 1:
            raise InputError(f"max_regions is {max_regions}: give a whole number of at least 1")
        self.json_file = json_file
        content = read_json(json_file, NamedRegions)
        categories = index_categories(content.categories, json_file)
        self.names = [category.name for category in categories.values()]
        index = {identity: number for number, identity in enumerate(categories)}
        found: dict[Any, tuple[list[list[float]], list[int]]] = {}
        for annotation in content.annotations:
            category = annotation.category_id
            if category not in index:
                raise InputError(
                    f"{json_file}: annotation {annotation.id!r} has the unknown category_id {category}: fix it"
                )
            if annotation.iscrowd:
                continue
            boxes, classes = found.setdefault(annotation.image_id, ([], []))
            if len(boxes) < max_regions:
                boxes.append(annotation.bbox)
                classes.append(index[category])
        if not found:
            raise InputError(f"{json_file}: 'annotations' is empty: there is nothing to train on")
        self._of_image = {
            image: (np.array(boxes, np.float32), np.array(classes)) for image, (boxes, classes) in found.items()
        }

    def select(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the records of images that have annotations, which alone are trained on (released code).

        Raises:
            InputError: if an annotated image is none of the data set's.
        """
        known = {record["image_id"] for record in records}
        unknown = [image_id for image_id in self._of_image if image_id not in known]
        if unknown:
            raise InputError(
                f"{self.json_file}: annotates {len(unknown)} unknown image ids ({unknown[0]!r}, ...): use the "
                "annotations of this data set"
            )
        kept = [record for record in records if record["image_id"] in self._of_image]
        if len(kept) < len(records):
            logger.info("%s: trains on %d of %d images, those annotated", self.json_file, len(kept), len(records))
        return kept

    def __call__(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the boxes, R x 4 in pixels and within the image, and their classes, R long; R may be 0."""
        boxes, classes = (torch.from_numpy(x) for x in self._of_image.get(image_id, _NOTHING))
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        corners = clip_boxes_to_image(corners, (height, width))
        valid = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        return corners[valid], classes[valid]


class LabeledRegionMapper:
    """Reads an image and its labeled regions: a function of the record alone."""

    def __init__(self, regions: LabeledRegions):
        self.regions = regions

    def select(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `LabeledRegions.select`."""
        return self.regions.select(records)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Map a record of `load_image_list` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``file_name``, ``image_id``, ``height``, ``width``, ``regions`` (`Boxes` in
            pixels) and ``classes`` (R long, indices of ``regions.names``).

        Raises:
            ImageError: if the image cannot be read, or is not of the size in the record.
        """
        sample = read_record(record)
        boxes, classes = self.regions(record["image_id"], sample["height"], sample["width"])
        kept = {key: sample[key] for key in ("image", "file_name", "image_id", "height", "width")}
        return {**kept, "regions": Boxes(boxes), "classes": classes}
