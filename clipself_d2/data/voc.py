"""Read Pascal VOC's XML files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from clipself_d2.data.image import check_folder
from clipself_d2.data.instances import Classes, fold
from clipself_d2.errors import InputError
from clipself_d2.schema import HOW_TO_GET


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
    return [_record(root, name, index) for name in names]


def _record(root: Path, name: str, index: Mapping[str, int]) -> dict[str, Any]:
    path = root / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.fromstring(_read_text(path))
        height, width = (int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        annotations = [_annotation(element, index) for element in tree.findall("object")]
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


def _annotation(element: ElementTree.Element, index: Mapping[str, int]) -> dict[str, Any]:
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
        raise InputError(f"{path}: cannot be read ({error}): {HOW_TO_GET}") from error
