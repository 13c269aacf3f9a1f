"""The class lists of the panoptic and semantic data sets, each class with its synonyms.

They are in the order of the labels that evaluations count from 0. Each is a text file with one class per line, synonyms
separated by commas: its path can be given wherever a vocabulary is asked for.

- ``coco_panoptic``: the 133 classes in the order of Detectron2's ``COCO_CATEGORIES``. Things have the synonyms that
  LVIS, which labels the same images, gives the class of that name (and "motorbike"). Stuff loses COCO's marks of
  merging ("wall-other-merged" is "wall") and is put into English ("wall-brick" is "brick wall").
- ``coco_stuff_171``: the 80 things, with the same synonyms, and the 91 kinds of stuff of COCO-Stuff in the order of
  their ids, with names changed in the same way.
- ``ade20k_150``: the names in the data set's own ``objectInfo150.txt``.
- ``ade20k_847``: the classes of the full ADE20K (2021_17_01) that occur in both its training and validation parts,
  with the names of its index; ``datasets/ade20k_847_index.json`` has their ``name_ndx``.
- ``pascal_context_459``: the names of the data set's ``labels.txt``, words separated.
- ``pascal_context_59``: the 59 of them that are commonly evaluated, in alphabetical order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from clipself_d2.errors import InputError

LABEL_SETS: dict[str, int] = {
    "coco_panoptic": 133,
    "coco_stuff_171": 171,
    "ade20k_150": 150,
    "ade20k_847": 847,
    "pascal_context_59": 59,
    "pascal_context_459": 459,
}
"""The known label sets and how many classes each has."""

_FOLDER = Path(__file__).parent / "label_sets"


def label_set(name: str) -> list[list[str]]:
    """The classes of a data set, each a list of synonyms, the usual name first.

    Args:
        name: one of `LABEL_SETS`.

    Raises:
        InputError: an unknown name.
    """
    if name not in LABEL_SETS:
        raise InputError(f"label set {name!r} is unknown: take one of {', '.join(LABEL_SETS)}")
    return [list(synonyms) for synonyms in _read(name)]


@cache
def _read(name: str) -> tuple[tuple[str, ...], ...]:
    lines = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(", ")) for line in lines)


def class_names(classes: Sequence[Sequence[str]]) -> list[str]:
    """One distinct name per class: its first synonym, or all of them where classes share the first."""
    shared = Counter(synonyms[0] for synonyms in classes)
    return [synonyms[0] if shared[synonyms[0]] == 1 else ", ".join(synonyms) for synonyms in classes]


def seen_classes(
    train: Iterable[Sequence[str]], test: Iterable[Sequence[str]], ignore_case: bool = False
) -> list[bool]:
    """Which classes of a test vocabulary a model was trained on.

    Args:
        train: the training classes, each a list of synonyms.
        test: the test classes, likewise.
        ignore_case: treat upper and lower case alike; ODISE's rule compares letter for letter.

    Returns:
        Per test class, whether any of its synonyms is a synonym of any training class.
    """
    fold = str.casefold if ignore_case else str
    known = {fold(synonym) for synonyms in train for synonym in synonyms}
    return [not known.isdisjoint(map(fold, synonyms)) for synonyms in test]
