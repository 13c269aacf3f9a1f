"""Read boxes and masks of objects: jsons of COCO, LVIS and Objects365."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from clipself_d2.data.annotations import check_bbox, check_folder, entries, image_record, read_json
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Classes = Sequence[Sequence[str]]

_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


def load_instances(
    json_file: str | Path,
    image_root: str | Path,
    classes: Classes | None = None,
    *,
    novel: Sequence[str] = (),
    training: bool = False,
) -> tuple[list[dict[str, Any]], dict[int, int], list[str]]:
    """Read a json in COCO's or LVIS's format.

    Args:
        json_file: with ``"images"`` (see `load_image_list`), ``"annotations"`` (``image_id``, ``category_id``, ``bbox``
            as x, y, width, height, and optionally ``area``, ``iscrowd``, ``segmentation``) and ``"categories"``.
        image_root: the folder that the file names start from.
        classes: the label space. Each class is its name and other spellings of it; the json's categories are found in
            it by name. None: the json's categories in the order of their ids.
        novel: names of the classes that a detector is not trained on.
        training: leave out the objects of novel classes, and the images without an object that is no crowd, whose
            number is logged. The json may lack classes.

    Returns:
        Detectron2's dataset dicts, one per image, whose ``annotations`` have ``bbox``, ``bbox_mode``, ``category_id``
        (index of the class), ``iscrowd`` and, where the json has them, ``area`` and ``segmentation``; LVIS's
        ``neg_category_ids`` and ``not_exhaustive_category_ids`` stay. Then the index of the class of each category id,
        and the names of the classes.

    Raises:
        InputError: if something is missing, empty, or does not fit together.
    """
    root = check_folder(image_root, "images")
    content = read_json(json_file)
    categories = sorted(entries(json_file, content, "categories", ("id", "name")), key=lambda c: c["id"])
    classes = classes or [(c["name"],) for c in categories]
    index = match_classes(json_file, categories, classes, partial=training)
    names = [spellings[0] for spellings in classes]
    if unknown := set(novel) - set(names):
        raise InputError(f"{json_file}: novel class {min(unknown)!r} is not among the classes of the data set: fix it")
    left_out = {number for number, name in enumerate(names) if training and name in set(novel)}

    records: dict[Any, dict[str, Any]] = {}
    for image in entries(json_file, content, "images", ("id",)):
        record = records[image["id"]] = {**image_record(json_file, image, root), "annotations": []}
        record.update({key: image[key] for key in _LVIS if key in image})
    for annotation in entries(json_file, content, "annotations", ("image_id", "category_id", "bbox")):
        for field, known in (("image_id", records), ("category_id", index)):
            if annotation[field] not in known:
                raise InputError(
                    f"{json_file}: annotation {annotation.get('id')} has the unknown {field} {annotation[field]}: "
                    "fix it"
                )
        category = index[annotation["category_id"]]
        if category not in left_out:
            records[annotation["image_id"]]["annotations"].append(_annotation(json_file, annotation, category))
    listed = list(records.values())
    return _with_objects(listed, json_file) if training else listed, index, names


def match_classes(
    source: str | Path, categories: Sequence[Mapping[str, Any]], classes: Classes, *, partial: bool = False
) -> dict[int, int]:
    """Find the categories of a file among the classes of a data set, by name, never by order or number.

    Args:
        source: the file, for errors.
        categories: its categories (``id``, ``name``).
        classes: each class as its name and other spellings of it.
        partial: whether the file may lack classes.

    Returns:
        From category id to the index of its class.

    Raises:
        InputError: lists the categories that are no class, and the classes that no category is.
    """
    index = {fold(spelling): number for number, spellings in enumerate(classes) for spelling in spellings}
    found = {c["id"]: index.get(fold(c["name"])) for c in categories}
    unknown = [c["name"] for c in categories if found[c["id"]] is None]
    present = set(found.values())
    missing = [] if partial else [s[0] for number, s in enumerate(classes) if number not in present]
    if unknown or missing:
        wrong = [f"unknown classes {unknown}"] * bool(unknown) + [f"missing classes {missing}"] * bool(missing)
        raise InputError(f"{source}: its 'categories' have {' and '.join(wrong)}: use the data set's own file")
    return {identity: number for identity, number in found.items() if number is not None}


def fold(name: str) -> str:
    """Reduce a class name to what is compared: no case, single blanks between words, none around slashes."""
    return re.sub(r"\s*/\s*", "/", " ".join(name.casefold().split()))


def _with_objects(records: list[dict[str, Any]], source: str | Path) -> list[dict[str, Any]]:
    """Keep the records with an object that is no crowd."""
    kept = [r for r in records if any(not x.get("iscrowd", 0) for x in r["annotations"])]
    if not kept:
        raise InputError(f"{source}: none of its {len(records)} images has an object: there is nothing to train on")
    if len(kept) < len(records):
        logger.info("%s: left out %d of %d images, without objects", source, len(records) - len(kept), len(records))
    return kept


def _annotation(json_file: str | Path, annotation: Mapping[str, Any], category: int) -> dict[str, Any]:
    kept = {
        "bbox": check_bbox(json_file, annotation),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if "area" in annotation:
        kept["area"] = annotation["area"]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    elif segmentation:
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    if segmentation:
        kept["segmentation"] = segmentation
    return kept
