"""How the probabilities of a closed set of classes are shared among the classes of any vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary, max_over_synonyms, synonym_classes

PARTNERS = (
    ("orange", "orange fruit"),
    ("light", "lamp", "light bulb"),
    ("net", "tennis net"),
    ("playing field", "playingfield"),
    ("house", "house exterior"),
    ("blind", "window screen"),
    ("fan", "ceiling fan"),
    ("computer", "case", "computer case"),
    ("potted plant", "pottedplant"),
    ("road", "street"),
    ("wood", "wood piece"),
    ("crab stick", "crabstick"),
    ("fireplace", "fire place"),
    ("fish bowl", "fishbowl"),
    ("handcart", "hand cart"),
    ("hydro valve", "hydrovalve"),
    ("lifebuoy", "life buoy"),
    ("matchbook", "match book"),
    ("wine glass", "wineglass"),
)
"""Names of one class of COCO, ADE20K or Pascal Context in the label sets of this package, ODISE and FC-CLIP."""


def same_classes(classes: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> Tensor:
    """Find which classes of two lists are the same.

    Two classes are the same if they share names, letter for letter, and no other class shares a larger part with either
    of them: "earth, ground" is not "land, ground" where both lists have both. A class without a partner is the same as
    one of the other list without a partner if `PARTNERS` names both.

    Args:
        classes: L lists of synonyms.
        others: K lists of synonyms.

    Returns:
        L x K bool.
    """
    ours, theirs = ([set(names) for names in side] for side in (classes, others))
    shared = torch.tensor([[len(a & b) / len(a | b) for b in theirs] for a in ours])
    same = (shared > 0) & ((shared == shared.amax(dim=1, keepdim=True)) | (shared == shared.amax(dim=0)))
    rows, columns = ((~same.any(dim=axis)).nonzero().flatten().tolist() for axis in (1, 0))
    of_row = {row: _groups(ours[row]) for row in rows}
    of_column = {column: _groups(theirs[column]) for column in columns}
    for row, column in product(rows, columns):
        same[row, column] = not of_row[row].isdisjoint(of_column[column])
    return same


def _groups(names: set[str]) -> set[int]:
    """The numbers of the `PARTNERS` that have one of the names."""
    return {number for number, group in enumerate(PARTNERS) if not names.isdisjoint(group)}


def link_classes(classes: ClassNames, embeddings: Tensor, vocabulary: Vocabulary, temperature: float) -> Tensor:
    """Link classes by name, and by the similarity of their texts.

    `link[l, k] = softmax_k(temperature * c[l, k])`, where `c[l, k]` is

    - 1 if class l and class k are the same (`same_classes`);
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
    same = same_classes(closed, vocabulary.classes).to(cosines.device)
    apart = same.any(dim=1, keepdim=True) & same.any(dim=0) & ~same
    similarity = cosines.masked_fill(same, 1.0).masked_fill(apart, float("-inf"))
    return (temperature * similarity).softmax(dim=-1)


def link_by_name(classes: Sequence[Sequence[str]], vocabulary: Vocabulary, source: str) -> Tensor:
    """Link the classes that are the same (`same_classes`) -> L x K; each row sums to 1.

    Args:
        classes: L lists of synonyms.
        vocabulary: K classes.
        source: where the classes come from, for the message.

    Raises:
        InputError: a class on either side without a namesake.
    """
    same = same_classes(classes, vocabulary.classes)
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
