"""Images with captions in COCO's format: reading them, and drawing one caption per sample."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipself_d2.data.annotations import check_folder, entries, image_record, read_json
from clipself_d2.data.image import read_image
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)


def load_captions(json_file: str | Path) -> dict[int, list[str]]:
    """Read the captions of a COCO-format json.

    Args:
        json_file: a json whose ``"annotations"`` have ``image_id`` and ``caption``.

    Returns:
        The captions of each image that has any, in the order of the file, stripped of blanks.

    Raises:
        InputError: if the file is missing, is no json, holds no captions, or one of them is no text, is blank, or has
            no number for an ``image_id``.
    """
    return _captions(json_file, read_json(json_file))


def load_captioned_images(json_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """List images with their captions. Images without captions are left out, and counted in one warning.

    Args:
        json_file: as for `load_captions`, with the ``"images"`` of `load_image_list`.
        image_root: the folder that the file names start from.

    Returns:
        A dict per image: ``file_name`` (full path), ``image_id``, ``captions`` (at least one text), and ``height`` and
        ``width`` where the json has them.

    Raises:
        InputError: as `load_captions`; if the folder is missing, or a caption is of an image that is not listed.
    """
    root = check_folder(image_root, "images")
    content = read_json(json_file)
    captions = _captions(json_file, content)
    images = [image_record(json_file, image, root) for image in entries(json_file, content, "images", ("id",))]
    if unknown := captions.keys() - {image["image_id"] for image in images}:
        raise InputError(f"{json_file}: a caption names the unknown image id {min(unknown)}: fix its 'images'")
    records = [{**image, "captions": captions[image["image_id"]]} for image in images if image["image_id"] in captions]
    if len(records) < len(images):
        logger.warning(
            "%s: left out %d of %d images, without captions", json_file, len(images) - len(records), len(images)
        )
    return records


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


def _captions(json_file: str | Path, content: Mapping[str, Any]) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = {}
    for entry in entries(json_file, content, "annotations", ("image_id", "caption")):
        image_id, caption = entry["image_id"], entry["caption"]
        if not isinstance(image_id, int):
            raise InputError(f"{json_file}: 'image_id' {image_id!r} of a caption is no whole number: fix it")
        if not isinstance(caption, str) or not caption.strip():
            raise InputError(f"{json_file}: 'caption' {caption!r} of image {image_id} is no text: fix or remove it")
        captions.setdefault(image_id, []).append(caption.strip())
    if not captions:
        raise InputError(f"{json_file}: 'annotations' is empty: give a json with captions")
    return captions
