"""The vocabulary of a data set that is registered for panoptic or semantic evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from torch import Tensor

from clipself_d2.clip.text import ClassNames
from clipself_d2.data.catalog import check_registered
from clipself_d2.errors import InputError
from clipself_d2.regions import Vocabulary, build_vocabulary


def panoptic_vocabulary(
    dataset: str, text: str | Path | Callable[[ClassNames], Tensor], embed_dim: int | None = None
) -> Vocabulary:
    """Embeds all classes of a data set, things and stuff, with the synonyms of its metadata.

    Args:
        dataset: a registered name; its metadata has ``stuff_classes`` (all names) and, where they are known,
            ``class_synonyms`` and ``novel_classes``.
        text: see `build_vocabulary`; a `clip.TextClassifier` with ``synonyms="max"`` is what ODISE and FC-CLIP do.
        embed_dim: see `build_vocabulary`.

    Returns:
        The vocabulary, without a background: void is the mask generator's.

    Raises:
        InputError: an unknown data set, or one without such classes; see `build_vocabulary` too.
    """
    metadata = _metadata(dataset)
    names = list(metadata["stuff_classes"])
    synonyms = metadata.get("class_synonyms", [()] * len(names))
    # Where classes share their first synonym, the name that tells them apart goes before it.
    classes = [(name, *(word for word in words if word != name)) for name, words in zip(names, synonyms, strict=True)]
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


def _metadata(dataset: str) -> dict[str, Any]:
    check_registered(dataset)
    metadata: dict[str, Any] = MetadataCatalog.get(dataset).as_dict()
    if not metadata.get("stuff_classes"):
        raise InputError(f"data set {dataset!r} has no stuff_classes in its metadata: it is no panoptic data set")
    return metadata
