"""Synonyms of classes: their embeddings and scores, reduced to those of classes, and classes asked for by them."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.vocabulary.label_sets import LABEL_SETS, label_set
from clipself_d2.vocabulary.parse import ClassNames, check_vocabulary, read_vocabulary


def synonym_classes(vocabulary: ClassNames) -> Tensor:
    """The class number of each embedding of a `TextClassifier` with ``synonyms="max"``, ``M`` longs."""
    classes = check_vocabulary(vocabulary)
    return torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(c) for c in classes]))


def embed_synonyms(text: Callable[[ClassNames], Tensor], classes: Sequence[Sequence[str]]) -> Tensor:
    """Embed each synonym, class by class, of classes that may share names: ``M x C``; each name is embedded once.

    Args:
        text: a `TextClassifier`.
        classes: per class its synonyms.
    """
    names = list(dict.fromkeys(name for synonyms in classes for name in synonyms))
    position = {name: number for number, name in enumerate(names)}
    return text(names)[[position[name] for synonyms in classes for name in synonyms]]


def max_over_synonyms(scores: Tensor, classes: Tensor) -> Tensor:
    """The best synonym's score per class (ODISE, FC-CLIP).

    Args:
        scores: ``... x M``, one per synonym.
        classes: ``M`` class numbers 0..K-1, each at least once; see `synonym_classes`.

    Returns:
        ``... x K``.
    """
    count = int(classes.max()) + 1
    index = classes.to(scores.device).expand(scores.shape)
    return scores.new_empty(*scores.shape[:-1], count).scatter_reduce(-1, index, scores, "amax", include_self=False)


def by_synonyms(classes: Sequence[tuple[str, ...]], source: str) -> list[tuple[str, ...]]:
    """Replace each class's name by its other names, to see how much a model depends on the words it is asked by.

    Args:
        classes: to be asked for.
        source: one of `LABEL_SETS`, or a file of classes with their synonyms; see `read_vocabulary`.

    Returns:
        The classes, in order. One that the source does not know, or knows no further name of that is no other class's,
        keeps its own.

    Raises:
        InputError: none of the classes has a synonym.
    """
    known = label_set(source) if source in LABEL_SETS else read_vocabulary(source)
    owners = Counter(name for names in [*known, *classes] for name in set(names))
    others = {names[0]: tuple(name for name in names[1:] if owners[name] == 1) for names in known}
    replaced = [others.get(names[0]) or names for names in classes]
    if all(new == old for new, old in zip(replaced, classes, strict=True)):
        raise InputError(f"{source}: none of the {len(classes)} classes has a synonym there; give a list that has them")
    return replaced
