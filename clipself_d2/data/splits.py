"""OV-COCO and OV-LVIS, made from the official annotations as OVR-CNN and Detic made them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from clipself_d2.data.annotations import entries
from clipself_d2.data.classes import OV_COCO, OV_COCO_BASE, names
from clipself_d2.errors import InputError

Content = dict[str, Any]

SOURCES = {
    "ov_coco_train": "coco/annotations/instances_train2017.json",
    "ov_coco_val": "coco/annotations/instances_val2017.json",
    "ov_lvis_train": "lvis/lvis_v1_train.json",
}
"""The official file that each split is made from, below $DETECTRON2_DATASETS."""

OUTPUTS = {
    "ov_coco_train": "coco/zero-shot/instances_train2017_seen_2_65_cat.json",
    "ov_coco_val": "coco/zero-shot/instances_val2017_all_2.json",
    "ov_lvis_train": "lvis/lvis_v1_train_norare.json",
}
"""Where each split is written and looked for: the names that OVR-CNN, F-ViT and Detic gave them."""

# Images of the official file, and of the split made from it.
_IMAGES = {"ov_coco_train": (118_287, 107_761), "ov_coco_val": (5_000, 4_836), "ov_lvis_train": (100_170, 100_170)}
_LVIS_FREQUENCIES = {"r": 337, "c": 461, "f": 405}


def make_split(name: str, source: str, content: Mapping[str, Any]) -> Content:
    """Makes a split; see `ov_coco` and `ov_lvis`.

    Args:
        name: one of `SOURCES`.
        source: the file that the content was read from, for errors.
        content: the official json.

    Returns:
        The json of the split; entries are those of the content, unchanged.

    Raises:
        InputError: if the content is not in the official format, or is the whole official data set and gives another
            number of images than the split is known to have.
    """
    for field, required in (
        ("images", ("id",)),
        ("annotations", ("image_id", "category_id")),
        ("categories", ("id", "name")),
    ):
        entries(source, content, field, required)
    made = _MAKERS[name](source, content)
    official, expected = _IMAGES[name]
    if len(content["images"]) == official and len(made["images"]) != expected:
        raise InputError(
            f"{source}: gives {len(made['images'])} images where {name} has {expected}: download the file again"
        )
    return made


def ov_coco(source: str, content: Mapping[str, Any], kept: Collection[str]) -> Content:
    """COCO with the annotations of some classes alone, and the images that have one.

    Crowds count as annotations, as in OVR-CNN's files, whose numbers of images this reproduces; training and evaluation
    treat them as what they are. All 65 categories are listed, as in F-ViT's files.

    Raises:
        InputError: if one of the 65 classes is not in the file.
    """
    listed = [c for c in content["categories"] if c["name"] in set(names(OV_COCO))]
    if missing := set(names(OV_COCO)) - {c["name"] for c in listed}:
        raise InputError(f"{source}: its 'categories' lack {sorted(missing)}: use COCO's own instances json")
    ids = {c["id"] for c in listed if c["name"] in kept}
    annotations = [a for a in content["annotations"] if a["category_id"] in ids]
    used = {a["image_id"] for a in annotations}
    images = [image for image in content["images"] if image["id"] in used]
    return {**content, "images": images, "annotations": annotations, "categories": listed}


def ov_lvis(source: str, content: Mapping[str, Any]) -> Content:
    """LVIS without the annotations of rare classes; all images and all categories stay.

    Raises:
        InputError: if the categories do not tell their frequency, or are not LVIS v1's.
    """
    frequency = {c["id"]: c.get("frequency") for c in content["categories"]}
    counts = {kind: list(frequency.values()).count(kind) for kind in _LVIS_FREQUENCIES}
    if counts != _LVIS_FREQUENCIES:
        raise InputError(
            f"{source}: its categories are {counts} by 'frequency', LVIS v1's {_LVIS_FREQUENCIES}: use "
            "lvis_v1_train.json"
        )
    return {**content, "annotations": [a for a in content["annotations"] if frequency.get(a["category_id"]) != "r"]}


_MAKERS: dict[str, Callable[[str, Mapping[str, Any]], Content]] = {
    "ov_coco_train": lambda source, content: ov_coco(source, content, OV_COCO_BASE),
    "ov_coco_val": lambda source, content: ov_coco(source, content, names(OV_COCO)),
    "ov_lvis_train": ov_lvis,
}
