"""Photographs with captions in COCO's format: reading them, registering them, and drawing one caption a sample."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.data.annotations import check_folder, entries, image_record, read_json
from clipself_d2.data.image import read_image
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)


def load_captions(json_file: str | Path) -> dict[int, list[str]]:
    """Reads the captions of a COCO-format json.

    Args:
        json_file: a json whose ``"annotations"`` have ``image_id`` and ``caption``.

    Returns:
        The captions of each image that has any, in the order of the file, without the blanks around them.

    Raises:
        InputError: if the file is missing, is no json, holds no captions, or one of them is no text, is blank, or
            belongs to no numbered image.
    """
    return _captions(json_file, read_json(json_file))


def load_captioned_images(json_file: str | Path, image_root: str | Path) -> list[dict[str, Any]]:
    """Lists photographs with their captions. Those without are left out, and counted in one warning.

    Args:
        json_file: a json as of `load_captions`, with the ``"images"`` of `load_image_list`.
        image_root: the folder that the file names start from.

    Returns:
        A dict an image: ``file_name`` (full path), ``image_id``, ``captions`` (one text or more), and ``height`` and
        ``width`` where the json tells them.

    Raises:
        InputError: what `load_captions` raises; a missing folder; a caption of an image that is not listed.
    """
    root = check_folder(image_root, "photographs")
    content = read_json(json_file)
    captions = _captions(json_file, content)
    images = [image_record(json_file, image, root) for image in entries(json_file, content, "images", ("id",))]
    if unknown := captions.keys() - {image["image_id"] for image in images}:
        raise InputError(f"{json_file}: a caption names the unknown image id {min(unknown)}: mend its 'images'")
    records = [{**image, "captions": captions[image["image_id"]]} for image in images if image["image_id"] in captions]
    if len(records) < len(images):
        logger.warning(
            "%s: left out %d of %d images, without captions", json_file, len(images) - len(records), len(images)
        )
    return records


def register_captions(name: str, captions_json: str | Path, image_root: str | Path) -> None:
    """Registers captioned photographs for training; see `load_captioned_images`."""
    DatasetCatalog.register(name, lambda: load_captioned_images(captions_json, image_root))
    MetadataCatalog.get(name).set(json_file=str(captions_json), image_root=str(image_root))


class CaptionMapper:
    """Reads a photograph and draws one of its captions; a function of the record and the generator alone."""

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError if an image of the data set has no captions."""
        bare = next((record for record in records if not record.get("captions")), None)
        if bare is not None:
            raise InputError(
                f"{bare['file_name']}: has no captions: name a data set with captions (datasets/README.md)"
            )

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Maps a record of `load_captioned_images` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``caption``, ``file_name``, ``image_id``, ``height`` and ``width``.

        Raises:
            ImageError: if the photograph cannot be read.
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
            raise InputError(f"{json_file}: 'image_id' {image_id!r} of a caption is no whole number: mend it")
        if not isinstance(caption, str) or not caption.strip():
            raise InputError(f"{json_file}: 'caption' {caption!r} of image {image_id} is no text: mend or remove it")
        captions.setdefault(image_id, []).append(caption.strip())
    if not captions:
        raise InputError(f"{json_file}: 'annotations' is empty: give a json with captions")
    return captions
