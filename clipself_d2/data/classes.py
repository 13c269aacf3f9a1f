"""The classes of the data sets: names in the order of the labels, other spellings, and which are novel, rare or stuff.

A class of a detection data set is a tuple whose first entry is its name and whose others are spellings that annotation
files use for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from clipself_d2.vocabulary import class_names, label_set

ClassList = list[tuple[str, ...]]


def names(classes: ClassList) -> list[str]:
    """Return the names alone."""
    return [spellings[0] for spellings in classes]


def _read(name: str) -> ClassList:
    lines = (Path(__file__).parent / "class_lists" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(spelling.strip() for spelling in line.split("|")) for line in lines]


OV_COCO_BASE = names(_read("ov_coco_base"))
"""The 48 classes of COCO that a detector is trained on (Bansal et al., ECCV 2018)."""

OV_COCO_NOVEL = names(_read("ov_coco_novel"))
"""The 17 classes that it meets in the evaluation alone; COCO's other 15 are not used."""

OV_COCO: ClassList = [(c["name"],) for c in COCO_CATEGORIES if c["name"] in {*OV_COCO_BASE, *OV_COCO_NOVEL}]
"""All 65, in COCO's order."""

_LVIS = sorted(LVIS_CATEGORIES, key=lambda category: category["id"])

LVIS: ClassList = [tuple(dict.fromkeys((c["synonyms"][0], c["name"]))) for c in _LVIS]
"""LVIS v1's 1,203, with Detectron2's names; one differs from the file's (horned_cow, there bull)."""

LVIS_NAMES = [c["name"] for c in _LVIS]
"""The file's names, which prompts and published text embeddings use."""

LVIS_FREQUENCY = [c["frequency"] for c in _LVIS]
"""Of each class: r, c or f, for 1 to 10, 11 to 100, or more training images."""

LVIS_RARE = [c["synonyms"][0] for c in _LVIS if c["frequency"] == "r"]
"""The 337 rare classes, novel in OV-LVIS."""

OBJECTS365_V1 = _read("objects365_v1")
"""Objects365 v1 (2019), the paper's, in the order of F-ViT's class list."""

OBJECTS365_V2 = _read("objects365_v2")
"""Objects365 v2 (2020), in the order of its ids, spelling mistakes corrected. Other classes than v1's."""

VOC = _read("voc")
"""Pascal VOC's 20, with blanks between words."""

ADE20K_STUFF = (
    *(0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77),
    *(79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145),
)
"""Which of ADE20K's 150 classes are stuff."""

ADE20K_THINGS = tuple(i for i in range(150) if i not in ADE20K_STUFF)
"""The other 100, in the order of the instance release."""

ADE20K_CATEGORIES: list[dict[str, Any]] = [
    {"id": i, "name": name, "isthing": int(i in ADE20K_THINGS)}
    for i, name in enumerate(class_names(label_set("ade20k_150")))
]
"""The 150 classes in COCO's terms."""
