"""Training on regions that have a name: boxes and their categories from a COCO-format json, such as pseudo pairs."""

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

from clipself_d2.data.annotations import entries, read_json
from clipself_d2.data.image import read_image
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)


def load_category_names(json_file: str | Path) -> list[str]:
    """The names of a json's categories, in the order of their ids, which is that of `LabeledRegions`' classes.

    Raises:
        InputError: if the file cannot be read or has no categories, or two of one id.
    """
    return list(_categories(json_file, read_json(json_file)).values())


class LabeledRegions:
    """The regions of a training image with their classes, as the released code takes its pseudo pairs.

    Of each image the first annotations of the file, not shuffled; no size is left out, though boxes without area or
    wholly outside the image are, and crowds.

    Attributes:
        names: the K classes.
    """

    def __init__(self, json_file: str | Path, max_regions: int = 20):
        """Reads the annotations.

        Args:
            json_file: with ``"annotations"`` (``image_id``, ``bbox`` [x, y, width, height], ``category_id``) and
                ``"categories"`` (``id``, ``name``).
            max_regions: regions of an image at most (released code: 20).

        Raises:
            InputError: if the file cannot be read or is of another format, an annotation has an unknown category, there
                is none, or max_regions is below 1.
        """
        if max_regions < 1:
            raise InputError(f"max_regions is {max_regions}: give a whole number of at least 1")
        self.json_file = json_file
        content = read_json(json_file)
        categories = _categories(json_file, content)
        self.names = list(categories.values())
        number = {identity: k for k, identity in enumerate(categories)}
        found: dict[int, tuple[list[list[float]], list[int]]] = {}
        for annotation in entries(json_file, content, "annotations", ("image_id", "bbox", "category_id")):
            box, category = annotation["bbox"], annotation["category_id"]
            if category not in number:
                raise InputError(f"{json_file}: an annotation has the unknown category_id {category!r}: mend it")
            if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, (int, float)) for x in box):
                raise InputError(f"{json_file}: an annotation has the 'bbox' {box!r}: give [x, y, width, height]")
            if annotation.get("iscrowd"):
                continue
            boxes, classes = found.setdefault(annotation["image_id"], ([], []))
            if len(boxes) < max_regions:
                boxes.append(box)
                classes.append(number[category])
        if not found:
            raise InputError(f"{json_file}: 'annotations' is empty: there is nothing to train on")
        self._of_image = {
            image: (np.array(boxes, np.float32), np.array(classes)) for image, (boxes, classes) in found.items()
        }

    def select(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records of images that have annotations, which alone are trained on (released code).

        Raises:
            InputError: if an annotated image is none of the data set's.
        """
        unknown = sorted(self._of_image.keys() - {record["image_id"] for record in records})
        if unknown:
            raise InputError(
                f"{self.json_file}: annotates {len(unknown)} unknown image ids ({unknown[0]}, ...): use the "
                "annotations of this data set"
            )
        kept = [record for record in records if record["image_id"] in self._of_image]
        if len(kept) < len(records):
            logger.info("%s: trains on %d of %d images, those annotated", self.json_file, len(kept), len(records))
        return kept

    def __call__(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns boxes, R x 4 in pixels and within the image, and their classes, R long; R may be 0."""
        boxes, classes = (torch.from_numpy(x) for x in self._of_image.get(image_id, _NOTHING))
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        corners = clip_boxes_to_image(corners, (height, width))
        sound = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        return corners[sound], classes[sound]


_NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


class LabeledRegionMapper:
    """Reads a photograph and its labeled regions; a function of the record alone."""

    def __init__(self, regions: LabeledRegions):
        """Keeps the regions."""
        self.regions = regions

    def select(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `LabeledRegions.select`."""
        return self.regions.select(records)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Maps a record of `load_image_list` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``file_name``, ``image_id``, ``height``, ``width``, ``regions`` (`Boxes` in
            pixels) and ``classes`` (R long, numbers of ``regions.names``).

        Raises:
            ImageError: if the photograph cannot be read.
        """
        image = read_image(record["file_name"])
        height, width = image.shape[1:]
        boxes, classes = self.regions(record["image_id"], height, width)
        return {
            "image": image,
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": height,
            "width": width,
            "regions": Boxes(boxes),
            "classes": classes,
        }


def _categories(json_file: str | Path, content: Mapping[str, Any]) -> dict[int, str]:
    listed = entries(json_file, content, "categories", ("id", "name"))
    categories = {category["id"]: category["name"] for category in sorted(listed, key=lambda c: c["id"])}
    if not categories or len(categories) < len(listed):
        problem = "two categories have one id" if listed else "'categories' is empty"
        raise InputError(f"{json_file}: {problem}: mend it")
    return categories
