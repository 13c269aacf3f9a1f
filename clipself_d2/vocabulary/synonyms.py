"""The embeddings and scores of synonyms, reduced to those of classes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipself_d2.vocabulary.parse import ClassNames, check_vocabulary


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
