"""Reading boxes and masks of objects: jsons of COCO, LVIS and Objects365, and Pascal VOC's XML files."""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from clipself_d2.data.annotations import HOW_TO_GET, check_folder, entries, image_record, read_json
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Classes = Sequence[Sequence[str]]

_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


def fold(name: str) -> str:
    """A class name as names are compared: without case, without blanks around the words and around slashes."""
    return re.sub(r"\s*/\s*", "/", " ".join(name.casefold().split()))


def match_classes(
    source: str | Path, categories: Sequence[Mapping[str, Any]], classes: Classes, *, partial: bool = False
) -> dict[int, int]:
    """Finds the categories of a file among the classes of a data set, by name, never by order or number.

    Args:
        source: the file, for the error.
        categories: its categories (``id``, ``name``).
        classes: every class as its name and other spellings of it.
        partial: whether the file may lack classes.

    Returns:
        From category id to the index of its class.

    Raises:
        InputError: that lists the categories that are no class, and the classes that no category is.
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


def load_instances(
    json_file: str | Path,
    image_root: str | Path,
    classes: Classes | None = None,
    *,
    novel: Sequence[str] = (),
    training: bool = False,
) -> tuple[list[dict[str, Any]], dict[int, int], list[str]]:
    """Reads a json in COCO's or LVIS's format.

    Args:
        json_file: with ``"images"`` (see `load_image_list`), ``"annotations"`` (``image_id``, ``category_id``, ``bbox``
            as x, y, width, height, and maybe ``area``, ``iscrowd``, ``segmentation``) and ``"categories"``.
        image_root: the folder that the file names start from.
        classes: the label space, every class as its name and other spellings of it; categories are found in it by name.
            None: the json's categories in the order of their ids.
        novel: names of the classes that a detector is not trained on.
        training: leaves out the objects of novel classes, and the images without an object that is no crowd, of which
            it says how many; classes may be missing in the json.

    Returns:
        Detectron2's dataset dicts, one an image, whose ``annotations`` have ``bbox``, ``bbox_mode``, ``category_id``
        (index of the class), ``iscrowd`` and what of ``area`` and ``segmentation`` the json has, and which keep LVIS's
        ``neg_category_ids`` and ``not_exhaustive_category_ids``; the index of the class of each category id; the names
        of the classes.

    Raises:
        InputError: if something is missing, empty, or does not fit together.
    """
    root = check_folder(image_root, "photographs")
    content = read_json(json_file)
    categories = sorted(entries(json_file, content, "categories", ("id", "name")), key=lambda c: c["id"])
    classes = classes or [(c["name"],) for c in categories]
    index = match_classes(json_file, categories, classes, partial=training)
    names = [spellings[0] for spellings in classes]
    if strange := set(novel) - set(names):
        raise InputError(f"{json_file}: novel class {min(strange)!r} is not among the classes of the data set: mend it")
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
                    "mend it"
                )
        category = index[annotation["category_id"]]
        if category not in left_out:
            records[annotation["image_id"]]["annotations"].append(_annotation(json_file, annotation, category))
    listed = list(records.values())
    return _with_objects(listed, json_file) if training else listed, index, names


def _with_objects(records: list[dict[str, Any]], source: str | Path) -> list[dict[str, Any]]:
    """The records with an object that is no crowd; the number of the others is logged."""
    kept = [r for r in records if any(not x.get("iscrowd", 0) for x in r["annotations"])]
    if not kept:
        raise InputError(f"{source}: none of its {len(records)} images has an object: there is nothing to train on")
    if len(kept) < len(records):
        logger.info("%s: left out %d of %d images, without objects", source, len(records) - len(kept), len(records))
    return kept


def load_voc(folder: str | Path, split: str, classes: Classes) -> list[dict[str, Any]]:
    """Reads a split of Pascal VOC.

    Args:
        folder: with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: such as "test", for ``ImageSets/Main/test.txt``.
        classes: the label space, every class as its name and other spellings of it.

    Returns:
        Detectron2's dataset dicts; objects marked difficult are crowds, so that evaluations ignore them. Corners count
        from 0 and hold the last pixel, as in Detectron2's own loader.

    Raises:
        InputError: if a file is missing or damaged, or a class unknown.
    """
    root = check_folder(folder, "Pascal VOC")
    index = {fold(spelling): number for number, spellings in enumerate(classes) for spelling in spellings}
    names = _read_text(root / "ImageSets/Main" / f"{split}.txt").split()
    return [_voc_record(root, name, index) for name in names]


def _voc_record(root: Path, name: str, index: Mapping[str, int]) -> dict[str, Any]:
    path = root / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.fromstring(_read_text(path))
        size = [int(tree.findtext(f"size/{side}", "")) for side in ("height", "width")]
        annotations = [_voc_object(element, index) for element in tree.findall("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: is no annotation of Pascal VOC ({error}): download it again") from error
    except KeyError as error:
        raise InputError(f"{path}: has an object of the unknown class {error}: use Pascal VOC's own file") from error
    return {
        "file_name": str(root / "JPEGImages" / f"{name}.jpg"),
        "image_id": int(name) if name.isdecimal() else name,
        "height": size[0],
        "width": size[1],
        "annotations": annotations,
    }


def _voc_object(element: ElementTree.Element, index: Mapping[str, int]) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": index[fold(element.findtext("name", ""))],
        "iscrowd": int(element.findtext("difficult", "0")),
    }


def _annotation(json_file: str | Path, annotation: Mapping[str, Any], category: int) -> dict[str, Any]:
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(x, int | float) for x in bbox):
        raise InputError(f"{json_file}: annotation {annotation.get('id')} has the bbox {bbox}: give four numbers")
    kept = {
        "bbox": bbox,
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {HOW_TO_GET}") from error
