"""The classes that a data set's metadata names, as a vocabulary is asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.parse import ClassNames


def thing_classes(metadata: Mapping[str, Any]) -> tuple[ClassNames, list[str]]:
    """The classes of a detection data set, and the names of the novel ones.

    Args:
        metadata: with ``thing_classes``; where it has ``prompt_classes``, one per class, these are asked for instead.
            ``novel_classes``, if any, are names of ``thing_classes``.

    Raises:
        InputError: metadata without classes of things.
    """
    if not metadata.get("thing_classes"):
        raise InputError(f"data set {metadata.get('name')!r} has no classes of things in its metadata (thing_classes)")
    classes, novel = metadata["thing_classes"], list(metadata.get("novel_classes", ()))
    if "prompt_classes" not in metadata:
        return classes, novel
    prompts = dict(zip(classes, metadata["prompt_classes"], strict=True))
    return list(prompts.values()), [prompts[name] for name in novel]


def all_classes(metadata: Mapping[str, Any], synonyms: bool = True) -> tuple[list[tuple[str, ...]], list[str]]:
    """All classes of a panoptic or semantic data set, things and stuff, and the names of the novel ones.

    Args:
        metadata: with ``stuff_classes`` (all names) and, where known, ``class_synonyms`` and ``novel_classes``.
        synonyms: each class with its synonyms; False: with its name alone.

    Raises:
        InputError: metadata of another kind of data set.
    """
    if not metadata.get("stuff_classes"):
        raise InputError(
            f"data set {metadata.get('name')!r} has no stuff_classes in its metadata: it is not a panoptic or semantic "
            "data set"
        )
    names = list(metadata["stuff_classes"])
    known = metadata.get("class_synonyms") if synonyms else None
    # Where classes share their first synonym, the name that distinguishes them goes before it.
    classes = [
        (name, *(word for word in words if word != name))
        for name, words in zip(names, known or [()] * len(names), strict=True)
    ]
    return classes, list(metadata.get("novel_classes", ()))
