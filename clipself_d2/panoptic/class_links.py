"""How the probabilities of a closed set of classes are shared among the classes of any vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary, max_over_synonyms, synonym_classes


def link_classes(classes: ClassNames, embeddings: Tensor, vocabulary: Vocabulary, temperature: float) -> Tensor:
    """Link classes by name, and by the similarity of their texts.

    `link[l, k] = softmax_k(temperature * c[l, k])`, where `c[l, k]` is

    - 1 if class l and class k share a name, letter for letter;
    - else the cosine of their texts (of the best synonyms), if class l has no namesake in the vocabulary or class k has
      none among the closed classes;
    - else minus infinity: two classes that both have a namesake share nothing.

    A class keeps its probability where the vocabulary has it, except for what it lends to classes that the segmenter
    does not know: the more, the closer their texts are.

    Args:
        classes: L lists of synonyms.
        embeddings: one per synonym, class by class, C unit vectors.
        vocabulary: K classes.
        temperature: factor of the cosines.

    Returns:
        L x K; each row sums to 1.
    """
    closed = check_vocabulary(classes)
    cosines = vocabulary.cosines(embeddings)[:, : len(vocabulary)]
    cosines = max_over_synonyms(cosines.T, synonym_classes(closed)).T
    same = _same_names(closed, vocabulary).to(cosines.device)
    apart = same.any(dim=1, keepdim=True) & same.any(dim=0) & ~same
    similarity = cosines.masked_fill(same, 1.0).masked_fill(apart, float("-inf"))
    return (temperature * similarity).softmax(dim=-1)


def link_by_name(classes: Sequence[Sequence[str]], vocabulary: Vocabulary, source: str) -> Tensor:
    """Link classes by name alone -> L x K; each row sums to 1.

    Args:
        classes: L lists of synonyms.
        vocabulary: K classes.
        source: where the classes come from, for the message.

    Raises:
        InputError: a class on either side without a namesake.
    """
    same = _same_names(classes, vocabulary)
    lacking = [
        *(("has a class that the vocabulary lacks,", classes[i][0]) for i in (~same.any(dim=1)).nonzero().flatten()),
        *(("lacks class", vocabulary.names[k]) for k in (~same.any(dim=0)).nonzero().flatten()),
    ]
    if lacking:
        kind, name = lacking[0]
        raise InputError(
            f"{source}: {kind} {name!r}: give the same classes, or SavedMasks(text=...), which shares the scores by "
            "the similarity of names"
        )
    return same / same.sum(dim=1, keepdim=True)


def _same_names(classes: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Tensor:
    """L x K bool: whether two classes share a name."""
    return torch.tensor([[not set(ours).isdisjoint(theirs) for theirs in vocabulary.classes] for ours in classes])
