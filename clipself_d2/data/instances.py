"""Read objects, with boxes and masks: jsons of COCO, LVIS and Objects365, and Pascal VOC's XML files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2.structures import BoxMode

from clipself_d2 import schema
from clipself_d2.data.annotations import PathLike, Records, image_records
from clipself_d2.data.image import check_folder
from clipself_d2.data.masks import check_segmentation
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Classes = Sequence[Sequence[str]]

_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


def load_instances(
    json_file: PathLike,
    image_root: PathLike,
    classes: Classes | None = None,
    *,
    novel: Sequence[str] = (),
    training: bool = False,
) -> tuple[Records, dict[int, int], list[str]]:
    """Read objects in COCO's or LVIS's format.

    Boxes without area or outside their image are left out. So is a category that no object has and others name as their
    supercategory, if no class is called like it: exports of Roboflow have one.

    Args:
        json_file: see `schema.Instances`.
        image_root: the folder that the file names start from.
        classes: the label space. Each class is its name and other spellings of it; the json's categories are found in
            it by name. None: the json's categories in the order of their ids.
        novel: names of the classes that a detector is not trained on.
        training: leave out the objects of novel classes, and the images without an object that is no crowd. The json
            may lack classes.

    Returns:
        Detectron2's dataset dicts, one per image, whose ``annotations`` have ``bbox``, ``bbox_mode``, ``category_id``
        (index of the class), ``iscrowd`` and, where the json has them, ``area`` and ``segmentation``; LVIS's
        ``neg_category_ids`` and ``not_exhaustive_category_ids`` stay. Then the index of the class of each category id,
        and the names of the classes.

    Raises:
        InputError: if something is missing, empty, or does not fit together.
    """
    root = check_folder(image_root, "images")
    content = schema.read_json(json_file, schema.Instances)
    records = image_records(json_file, content.images, root)
    categories = _without_supercategories(json_file, content, classes)
    classes = classes or [(category.name,) for category in categories]
    index = match_classes(json_file, categories, classes, partial=training)
    names = [spellings[0] for spellings in classes]
    if unknown := set(novel) - set(names):
        raise InputError(f"{json_file}: novel class {min(unknown)!r} is not among the classes of the data set: fix it")
    not_trained = {number for number, name in enumerate(names) if training and name in set(novel)}

    for image in content.images:
        records[image.id] |= {key: getattr(image, key) for key in _LVIS if getattr(image, key) is not None}
        records[image.id]["annotations"] = []
    invalid = []
    for annotation in content.annotations:
        for field, known in (("image_id", records), ("category_id", index)):
            if (value := getattr(annotation, field)) not in known:
                raise InputError(f"{json_file}: annotation {annotation.id!r} has the unknown {field} {value!r}: fix it")
        record, category = records[annotation.image_id], index[annotation.category_id]
        kept = _annotation(json_file, annotation, category, record)
        if not _is_inside(annotation.bbox, record):
            invalid.append(annotation)
        elif category not in not_trained:
            record["annotations"].append(kept)
    if invalid:
        logger.warning(
            "%s: left out %d of %d annotations, whose boxes have no area or are outside the image, such as %r: %s",
            json_file,
            len(invalid),
            len(content.annotations),
            invalid[0].id,
            invalid[0].bbox,
        )
    listed = list(records.values())
    return _with_objects(listed, json_file) if training else listed, index, names


def match_classes(
    source: PathLike, categories: Sequence[schema.Category], classes: Classes, *, partial: bool = False
) -> dict[int, int]:
    """Find the categories of a file among the classes of a data set, by name, never by order or number.

    Args:
        source: the file, for errors.
        categories: its categories.
        classes: each class as its name and other spellings of it.
        partial: whether the file may lack classes.

    Returns:
        From category id to the index of its class.

    Raises:
        InputError: lists the categories that are no class, and the classes that no category is; or names two categories
            that are one class.
    """
    index = {fold(spelling): number for number, spellings in enumerate(classes) for spelling in spellings}
    found: dict[int, schema.Category] = {}
    for category in categories:
        number = index.get(fold(category.name))
        if number is not None and (first := found.setdefault(number, category)) is not category:
            raise InputError(
                f"{source}: categories {first.id} ({first.name!r}) and {category.id} ({category.name!r}) are both the "
                f"class {classes[number][0]!r}: rename or merge them"
            )
    unknown = [c.name for c in categories if fold(c.name) not in index]
    missing = [] if partial else [s[0] for number, s in enumerate(classes) if number not in found]
    if unknown or missing:
        wrong = [f"unknown classes {unknown}"] * bool(unknown) + [f"missing classes {missing}"] * bool(missing)
        raise InputError(f"{source}: its 'categories' have {' and '.join(wrong)}: use the data set's own file")
    return {category.id: index[fold(category.name)] for category in categories}


def fold(name: str) -> str:
    """Reduce a class name to what is compared: no case, single blanks between words, none around slashes."""
    return re.sub(r"\s*/\s*", "/", " ".join(name.casefold().split()))


def _without_supercategories(
    source: PathLike, content: schema.Instances, classes: Classes | None
) -> list[schema.Category]:
    categories = schema.index_categories(content.categories, source).values()
    wanted = {fold(spelling) for spellings in classes or () for spelling in spellings}
    parents = {c.supercategory for c in categories if c.supercategory != c.name}
    used = {annotation.category_id for annotation in content.annotations}
    left_out = {c.id for c in categories if c.name in parents and c.id not in used and fold(c.name) not in wanted}
    if left_out:
        names = [c.name for c in categories if c.id in left_out]
        logger.warning("%s: left out %s, the supercategory of others, which no object has", source, names)
    return [c for c in categories if c.id not in left_out]


def _with_objects(records: Records, source: PathLike) -> Records:
    """Keep the records with an object that is no crowd."""
    kept = [r for r in records if any(not x["iscrowd"] for x in r["annotations"])]
    if not kept:
        raise InputError(f"{source}: none of its {len(records)} images has an object: there is nothing to train on")
    if len(kept) < len(records):
        logger.info("%s: left out %d of %d images, without objects", source, len(records) - len(kept), len(records))
    return kept


def _is_inside(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """Whether a part of a box x, y, width, height is in its image."""
    x, y, width, height = box
    inside = x < image.get("width", float("inf")) and y < image.get("height", float("inf"))
    return inside and min(width, height, x + width, y + height) > 0


def _annotation(
    source: PathLike, annotation: schema.Annotation, category: int, image: Mapping[str, Any]
) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "bbox": annotation.bbox,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "iscrowd": int(annotation.iscrowd or 0),
    }
    if annotation.area is not None:
        kept["area"] = annotation.area
    if annotation.segmentation:
        where = f"{source}: annotation {annotation.id!r}: 'segmentation'"
        if "height" not in image or "width" not in image:
            raise InputError(f"{where} needs 'height' and 'width' of image {annotation.image_id!r}: add them")
        try:
            mask = check_segmentation(annotation.segmentation, image["height"], image["width"])
        except ValueError as error:
            raise InputError(f"{where} {error}: fix it") from error
        if mask:
            kept["segmentation"] = mask
    return kept


def load_voc(folder: str | Path, split: str, classes: Classes) -> list[dict[str, Any]]:
    """Read a split of Pascal VOC.

    Detectron2's own loader does not read which objects are difficult.

    Args:
        folder: with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: such as "test", for ``ImageSets/Main/test.txt``.
        classes: the label space, each class as its name and other spellings of it.

    Returns:
        Detectron2's dataset dicts. Objects marked difficult are crowds, which evaluations ignore. Corners count from 0
        and include the last pixel, as in Detectron2's loader.

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
        height, width = (int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        annotations = [_voc_object(element, index) for element in tree.findall("object")]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: is no annotation of Pascal VOC ({error}): download it again") from error
    except KeyError as error:
        raise InputError(f"{path}: has an object of the unknown class {error}: use Pascal VOC's own file") from error
    return {
        "file_name": str(root / "JPEGImages" / f"{name}.jpg"),
        "image_id": int(name) if name.isdecimal() else name,
        "height": height,
        "width": width,
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {schema.HOW_TO_GET}") from error
