"""Read jsons in COCO's format as lists of Detectron2 dataset dicts: images, panoptic segments, captions."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from clipself_d2 import schema
from clipself_d2.data.image import check_folder, check_pixels
from clipself_d2.errors import InputError
from clipself_d2.files import find_images

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]
PathLike = str | Path


def load_image_list(json_file: PathLike | None, image_root: PathLike) -> Records:
    """List images, without annotations.

    Args:
        json_file: a COCO or LVIS json whose ``"images"`` have ``id`` and ``file_name`` (or ``coco_url``, of which the
            last two parts are the file name, as in LVIS v1). None: every image file of the folder and its subfolders.
            Its id is the number that it alone is named after, else one that follows these.
        image_root: the folder that the file names start from.

    Returns:
        A dict per image: ``file_name`` (full path), ``image_id``, and ``height`` and ``width`` where the json has them.

    Raises:
        InputError: if the json or the folder is missing or unreadable, or there are no images.
    """
    root = check_folder(image_root, "images")
    if json_file is not None:
        records = list(image_records(json_file, schema.read_json(json_file, schema.ImageList).images, root).values())
    else:
        files = find_images(root)
        numbers = [int(file.stem) if re.fullmatch("[0-9]{1,15}", file.stem) else None for file in files]
        own = {number for number, files in Counter(numbers).items() if number is not None and files == 1}
        others = count(max(own, default=-1) + 1)
        records = [
            {"file_name": str(file), "image_id": number if number in own else next(others)}
            for file, number in zip(files, numbers, strict=True)
        ]
    if not records:
        raise InputError(f"{json_file or image_root}: holds no images: check the path")
    return records


def load_panoptic(
    json_file: PathLike,
    png_root: PathLike,
    image_root: PathLike,
    categories: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Records, list[dict[str, Any]]]:
    """List panoptic segments in COCO's format.

    Args:
        json_file: see `schema.Panoptic`.
        png_root: the folder of its label PNGs.
        image_root: the folder of the images.
        categories: the classes (``id``, ``name``, ``isthing``). None: those of the json.

    Returns:
        The dataset dicts, one per annotated image: ``file_name``, ``image_id``, ``height``, ``width``,
        ``pan_seg_file_name`` and ``segments_info`` (``id``, ``category_id``, ``isthing``, ``iscrowd`` and, where the
        json has it, ``bbox``), whose ``category_id`` counts from 0 in the order of the ids. Then the categories in that
        order.

    Raises:
        InputError: if something is missing, empty, or does not fit together.
    """
    root, labels = check_folder(image_root, "images"), check_folder(png_root, "panoptic PNGs")
    content = schema.read_json(json_file, schema.Panoptic)
    images = image_records(json_file, content.images, root)
    if not content.annotations:
        raise InputError(f"{json_file}: 'annotations' is empty: there is nothing to evaluate")
    if categories is None:
        listed = schema.index_categories(content.categories or (), json_file).values()
        categories = [{"id": c.id, "name": c.name, "isthing": c.isthing} for c in listed]
    ordered = sorted(map(dict, categories), key=lambda c: c["id"])
    index = {category["id"]: number for number, category in enumerate(ordered)}

    records: dict[Any, dict[str, Any]] = {}
    for annotation in content.annotations:
        image_id = annotation.image_id
        if image_id not in images:
            raise InputError(f"{json_file}: an annotation names the unknown image id {image_id!r}: fix its 'images'")
        if image_id in records:
            raise InputError(f"{json_file}: image id {image_id!r} is annotated twice: merge or remove one")
        segments = []
        for segment in schema.index_by_id(annotation.segments_info, f"image {image_id!r}: segment", json_file).values():
            if segment.id == 0:
                raise InputError(f"{json_file}: image {image_id!r}: segment id 0 means unlabeled: count from 1")
            if segment.category_id not in index:
                raise InputError(
                    f"{json_file}: segment {segment.id} has the unknown category_id {segment.category_id}: "
                    "fix its 'categories'"
                )
            number = index[segment.category_id]
            box = {} if segment.bbox is None else {"bbox": segment.bbox}
            flags = {"isthing": bool(ordered[number]["isthing"]), "iscrowd": int(segment.iscrowd or 0)}
            segments.append({"id": segment.id, "category_id": number, **box, **flags})
        png = str(_below(labels, annotation.file_name, json_file, image_id))
        records[image_id] = {**images[image_id], "pan_seg_file_name": png, "segments_info": segments}
    if len(records) < len(images):
        logger.warning("%s: %d of %d images have no annotation", json_file, len(images) - len(records), len(images))
    return list(records.values()), ordered


def load_captions(json_file: PathLike) -> dict[Any, list[str]]:
    """Read the captions of a COCO-format json.

    Args:
        json_file: see `schema.Captions`.

    Returns:
        The captions of each image that has any, in the order of the file, stripped of blanks.

    Raises:
        InputError: if the file is missing, is no json or holds no captions, or one of them is blank.
    """
    return _captions(json_file, schema.read_json(json_file, schema.Captions).annotations)


def load_captioned_images(json_file: PathLike, image_root: PathLike) -> Records:
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
    content = schema.read_json(json_file, schema.CaptionedImages)
    captions = _captions(json_file, content.annotations)
    images = image_records(json_file, content.images, root)
    if unknown := [image_id for image_id in captions if image_id not in images]:
        raise InputError(f"{json_file}: a caption names the unknown image id {unknown[0]!r}: fix its 'images'")
    records = [{**images[i], "captions": captions[i]} for i in images if i in captions]
    if len(records) < len(images):
        logger.warning(
            "%s: left out %d of %d images, without captions", json_file, len(images) - len(records), len(images)
        )
    return records


def _captions(json_file: PathLike, entries: Sequence[schema.Caption]) -> dict[Any, list[str]]:
    captions: dict[Any, list[str]] = {}
    for entry in entries:
        if not entry.caption.strip():
            raise InputError(
                f"{json_file}: 'caption' {entry.caption!r} of image {entry.image_id!r} is no text: fix or remove it"
            )
        captions.setdefault(entry.image_id, []).append(entry.caption.strip())
    if not captions:
        raise InputError(f"{json_file}: 'annotations' is empty: give a json with captions")
    return captions


def image_records(source: PathLike, images: Sequence[schema.Image], root: Path) -> dict[Any, dict[str, Any]]:
    """Make the dataset dicts of a json's images, by their ids."""
    records = {}
    for image in schema.index_by_id(images, "image", source).values():
        name = image.file_name or "/".join(image.coco_url.split("/")[-2:])
        sizes = {side: size for side in ("height", "width") if (size := getattr(image, side))}
        check_pixels(sizes.get("height", 1), sizes.get("width", 1), f"{source}: image {image.id!r}")
        records[image.id] = {
            "file_name": str(_below(root, name, source, image.id)),
            "image_id": image.id,
            **sizes,
        }
    return records


def _below(root: Path, name: str, source: PathLike, image_id: Any) -> Path:
    """The path of a file that a json names; Windows' separators are understood."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name:
        raise InputError(f"{source}: image {image_id!r} has no 'file_name': fix it")
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise InputError(f"{source}: image {image_id!r} has the 'file_name' {name!r}: give one below {root}")
    return root / path
