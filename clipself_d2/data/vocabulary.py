"""The vocabulary of a registered data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from torch import Tensor

from clipself_d2.data.catalog import check_registered, metadata_of
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import ClassNames, Vocabulary, build_vocabulary, seen_classes


def dataset_vocabulary(
    dataset: str,
    text: str | Path | Callable[[ClassNames], Tensor],
    background: str | None = "background",
    embed_dim: int | None = None,
) -> Vocabulary:
    """Embeds the classes of a data set: its metadata's ``thing_classes``, of which ``novel_classes`` are not seen.

    Args:
        dataset: a registered name. Its classes are read from the annotations where the metadata has none yet.
        text: see `build_vocabulary`.
        background: see `build_vocabulary`.
        embed_dim: see `build_vocabulary`.

    Returns:
        The vocabulary; without ``novel_classes`` all classes count as seen.

    Raises:
        InputError: an unknown data set, or one without classes; see `build_vocabulary` too.
    """
    classes, novel = dataset_classes(dataset)
    return build_vocabulary(classes, text, novel=novel, background=background, embed_dim=embed_dim)


def dataset_classes(dataset: str) -> tuple[ClassNames, list[str]]:
    """The classes of things of a data set as a text tower is asked for them, and which of their names are novel.

    These are the metadata's ``prompt_classes`` where it has some, else its ``thing_classes``.

    Args:
        dataset: a registered name. Its classes are read from the annotations where the metadata has none yet.

    Raises:
        InputError: an unknown data set, or one without classes.
    """
    check_registered(dataset)
    metadata = metadata_of(dataset, "thing_classes").as_dict()
    if "thing_classes" not in metadata:
        raise InputError(f"data set {dataset!r} has no classes of things in its metadata (thing_classes)")
    classes, novel = metadata["thing_classes"], list(metadata.get("novel_classes", ()))
    if "prompt_classes" not in metadata:
        return classes, novel
    asked = dict(zip(classes, metadata["prompt_classes"], strict=True))
    return list(asked.values()), [asked[name] for name in novel]


def panoptic_vocabulary(
    dataset: str,
    text: str | Path | Callable[[ClassNames], Tensor],
    embed_dim: int | None = None,
    *,
    synonyms: bool = True,
) -> Vocabulary:
    """Embeds all classes of a panoptic or semantic data set, things and stuff.

    Args:
        dataset: a registered name; its metadata has ``stuff_classes`` (all names) and, where they are known,
            ``class_synonyms`` and ``novel_classes``.
        text: see `build_vocabulary`; a `clip.TextClassifier` with ``synonyms="max"`` is what ODISE and FC-CLIP do.
        embed_dim: see `build_vocabulary`.
        synonyms: prompt with the synonyms of the metadata; else with the name of each class alone (CAT-Seg).

    Returns:
        The vocabulary, without a background: void is the mask generator's.

    Raises:
        InputError: an unknown data set, or one without such classes; see `build_vocabulary` too.
    """
    metadata = _metadata(dataset)
    names = list(metadata["stuff_classes"])
    classes: list[tuple[str, ...]] = [(name,) for name in names]
    if synonyms and "class_synonyms" in metadata:
        # Where classes share their first synonym, the name that tells them apart goes before it.
        classes = [
            (name, *(word for word in words if word != name))
            for name, words in zip(names, metadata["class_synonyms"], strict=True)
        ]
    novel = metadata.get("novel_classes", ())
    return build_vocabulary(classes, text, novel=novel, background=None, embed_dim=embed_dim)


def dataset_things(dataset: str) -> list[bool]:
    """Which classes of a data set are things, in the order of `panoptic_vocabulary`; none in a semantic data set.

    Raises:
        InputError: an unknown data set, or one without such classes.
    """
    metadata = _metadata(dataset)
    things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    return [number in things for number in range(len(metadata["stuff_classes"]))]


def unseen_classes(dataset: str, train: str) -> list[str]:
    """Names of the classes of a panoptic or semantic data set that another, of the training, does not name.

    The rule is that of `seen_classes`, on the synonyms of both.

    Raises:
        InputError: an unknown data set, or one without such classes.
    """
    metadata, known = _metadata(dataset), _metadata(train)
    names = list(metadata["stuff_classes"])
    synonyms, trained = ([*m.get("class_synonyms", [[name] for name in m["stuff_classes"]])] for m in (metadata, known))
    return [name for name, seen in zip(names, seen_classes(trained, synonyms), strict=True) if not seen]


def _metadata(dataset: str) -> dict[str, Any]:
    check_registered(dataset)
    metadata: dict[str, Any] = MetadataCatalog.get(dataset).as_dict()
    if not metadata.get("stuff_classes"):
        raise InputError(
            f"data set {dataset!r} has no stuff_classes in its metadata: it is no panoptic or semantic data set"
        )
    return metadata
