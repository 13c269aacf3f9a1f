"""The vocabulary of a registered data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from clipself_d2.clip.text import ClassNames
from clipself_d2.data.catalog import check_registered, metadata_of
from clipself_d2.errors import InputError
from clipself_d2.regions.vocabulary import Vocabulary, build_vocabulary


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
