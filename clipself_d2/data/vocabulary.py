"""The vocabulary of a registered data set."""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog

from clipself_d2.data.catalog import check_registered, metadata_of
from clipself_d2.vocabulary import Vocabulary, all_classes, seen_classes, thing_classes
from clipself_d2.vocabulary.vocabulary import Embeddings


def dataset_vocabulary(
    dataset: str, text: Embeddings, background: str | None = "background", embed_dim: int | None = None
) -> Vocabulary:
    """Embed the classes of things of a data set, of which ``novel_classes`` are novel.

    Args:
        dataset: a registered name. Its classes are read from the annotations if the metadata has none yet.
        text: see `Vocabulary.from_classes`, as for the arguments that follow.
        background: the word for what is none of the classes; None for a vocabulary without background.
        embed_dim: length of the image tower's embeddings, against which a file is checked.

    Raises:
        InputError: an unknown data set, or one without classes; see `Vocabulary.from_classes` too.
    """
    classes, novel = thing_classes(_things(dataset))
    return Vocabulary.from_classes(classes, text, novel=novel, background=background, embed_dim=embed_dim)


def panoptic_vocabulary(
    dataset: str, text: Embeddings, embed_dim: int | None = None, *, synonyms: bool = True
) -> Vocabulary:
    """Embed all classes of a panoptic or semantic data set, things and stuff, without a background.

    Args:
        dataset: a registered name.
        text: see `Vocabulary.from_classes`; a `TextClassifier` with ``synonyms="max"`` is what ODISE and FC-CLIP do.
        embed_dim: see `dataset_vocabulary`.
        synonyms: prompt with the synonyms of the metadata; False: with each class's name alone (CAT-Seg).

    Raises:
        InputError: an unknown data set, or one without such classes; see `Vocabulary.from_classes` too.
    """
    classes, novel = all_classes(_all(dataset), synonyms)
    return Vocabulary.from_classes(classes, text, novel=novel, background=None, embed_dim=embed_dim)


def base_classes(dataset: str, stuff: bool = False) -> list[tuple[str, ...]]:
    """The classes of a data set that are not novel, each with its synonyms: things, or with `stuff` all classes."""
    classes, novel = all_classes(_all(dataset)) if stuff else thing_classes(_things(dataset))
    synonyms = ((entry,) if isinstance(entry, str) else tuple(entry) for entry in classes)
    return [words for words in synonyms if words[0] not in novel]


def dataset_things(dataset: str) -> list[bool]:
    """Which classes of a data set are things, in the order of `panoptic_vocabulary`; none in a semantic data set."""
    metadata = _all(dataset)
    things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    return [number in things for number in range(len(all_classes(metadata)[0]))]


def dataset_stuff(dataset: str) -> list[tuple[str, ...]]:
    """The classes of a panoptic or semantic data set that are stuff, each with its synonyms."""
    classes = all_classes(_all(dataset))[0]
    return [words for words, thing in zip(classes, dataset_things(dataset), strict=True) if not thing]


def unseen_classes(dataset: str, train: str) -> list[str]:
    """Names of the classes of a panoptic or semantic data set that a training data set does not name.

    The rule is that of `seen_classes`, on the synonyms of both.
    """
    classes, trained = all_classes(_all(dataset))[0], all_classes(_all(train))[0]
    return [words[0] for words, seen in zip(classes, seen_classes(trained, classes), strict=True) if not seen]


def _things(dataset: str) -> dict[str, Any]:
    check_registered(dataset)
    return metadata_of(dataset, "thing_classes").as_dict()


def _all(dataset: str) -> dict[str, Any]:
    check_registered(dataset)
    return MetadataCatalog.get(dataset).as_dict()
