"""Read jsons in COCO's format: image lists and panoptic segments, as lists of Detectron2 dataset dicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
HOW_TO_GET = "download it as datasets/README.md says, or set DETECTRON2_DATASETS to the folder that holds it"
"""How errors about a missing file end."""


def load_image_list(json_file: str | Path | None, image_root: str | Path) -> list[dict[str, Any]]:
    """List images, without annotations.

    Args:
        json_file: a COCO or LVIS json whose ``"images"`` have ``id`` and ``file_name`` (or ``coco_url``, of which the
            last two parts are the file name, as in LVIS v1). None: every image file of the folder. Its id is the number
            that it is named after, else its position.
        image_root: the folder that the file names start from.

    Returns:
        A dict per image: ``file_name`` (full path), ``image_id``, and ``height`` and ``width`` where the json has them.

    Raises:
        InputError: if the json or the folder is missing or unreadable, or there are no images.
    """
    root = check_folder(image_root, "images")
    if json_file is None:
        files = sorted(file for file in root.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)
        records = [
            {"file_name": str(file), "image_id": int(file.stem) if file.stem.isdecimal() else number}
            for number, file in enumerate(files)
        ]
    else:
        images = entries(json_file, read_json(json_file), "images", ("id",))
        records = [image_record(json_file, image, root) for image in images]
    if not records:
        raise InputError(f"{json_file or image_root}: holds no images: check the path")
    return records


def load_panoptic(
    json_file: str | Path,
    png_root: str | Path,
    image_root: str | Path,
    categories: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """List panoptic segments in COCO's format.

    Args:
        json_file: the panoptic json, with ``"images"``, ``"annotations"`` and ``"categories"``.
        png_root: the folder of its label PNGs.
        image_root: the folder of the images.
        categories: the classes (``id``, ``name``, ``isthing``). None: those of the json.

    Returns:
        The dataset dicts, one per annotated image: ``file_name``, ``image_id``, ``height``, ``width``,
        ``pan_seg_file_name`` and ``segments_info``, whose ``category_id`` counts from 0 in the order of the ids. Then
        the categories in that order.

    Raises:
        InputError: if something is missing, empty, or does not fit together.
    """
    root, labels = check_folder(image_root, "images"), check_folder(png_root, "panoptic PNGs")
    content = read_json(json_file)
    listed = entries(json_file, content, "images", ("id",))
    images = {image["id"]: image_record(json_file, image, root) for image in listed}
    annotations = entries(json_file, content, "annotations", ("image_id", "file_name", "segments_info"))
    if not annotations:
        raise InputError(f"{json_file}: 'annotations' is empty: there is nothing to evaluate")
    classes = categories or entries(json_file, content, "categories", ("id", "name", "isthing"))
    ordered = sorted(map(dict, classes), key=lambda c: c["id"])
    index = {category["id"]: number for number, category in enumerate(ordered)}

    records = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            raise InputError(
                f"{json_file}: an annotation names the unknown image id {annotation['image_id']}: fix its 'images'"
            )
        segments = []
        for segment in entries(json_file, annotation, "segments_info", ("id", "category_id", "bbox")):
            number = index.get(segment["category_id"])
            if number is None:
                raise InputError(
                    f"{json_file}: segment {segment['id']} has the unknown category_id {segment['category_id']}: "
                    "fix its 'categories'"
                )
            segments.append({**segment, "category_id": number, "isthing": bool(ordered[number]["isthing"])})
        records.append({**image, "pan_seg_file_name": str(labels / annotation["file_name"]), "segments_info": segments})
    if len(records) < len(images):
        logger.warning("%s: %d of %d images have no annotation", json_file, len(images) - len(records), len(images))
    return records, ordered


def image_record(json_file: str | Path, image: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Make the dataset dict of an entry of ``"images"``, without annotations."""
    name = image.get("file_name") or "/".join(image.get("coco_url", "").split("/")[-2:])
    if not name:
        raise InputError(f"{json_file}: an entry of 'images' has no 'file_name': fix it")
    sizes = {side: image[side] for side in ("height", "width") if image.get(side)}
    return {"file_name": str(root / name), "image_id": image["id"], **sizes}


def read_json(json_file: str | Path) -> dict[str, Any]:
    """Read a json that is an object; InputError if it is missing or something else."""
    try:
        content = json.loads(Path(json_file).read_text())
    except OSError as error:
        raise InputError(f"{json_file}: cannot be read ({error.strerror}): {HOW_TO_GET}") from error
    except ValueError as error:
        raise InputError(f"{json_file}: is not json ({error}): download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{json_file}: is a list, not a COCO-format json: give one with 'images'")
    return content


def entries(
    json_file: str | Path, content: Mapping[str, Any], field: str, required: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the list of a field; InputError if there is none, or an entry lacks a required key."""
    entries = content.get(field)
    if not isinstance(entries, list):
        raise InputError(f"{json_file}: has no '{field}': give a COCO-format json that has")
    for entry in entries:
        lacks = [key for key in required if not isinstance(entry, dict) or key not in entry]
        if lacks:
            raise InputError(f"{json_file}: an entry of '{field}' has no '{lacks[0]}': fix it")
    return entries


def check_bbox(json_file: str | Path, annotation: Mapping[str, Any]) -> list[float]:
    """Return the ``bbox`` of an annotation; InputError if it is not four numbers."""
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(x, int | float) for x in bbox):
        raise InputError(
            f"{json_file}: annotation {annotation.get('id')} has the 'bbox' {bbox!r}: give [x, y, width, height]"
        )
    return bbox


def check_folder(path: str | Path, what: str) -> Path:
    """Return the path of a folder; InputError if there is none."""
    if not Path(path).is_dir():
        raise InputError(f"{path}: there is no such folder of {what}: {HOW_TO_GET}")
    return Path(path)
