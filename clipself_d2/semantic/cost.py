"""The cost volume: the cosine of every location of the dense map with every class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.vocabulary import Vocabulary


def cell_cosines(dense: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Cosines of a dense map with all that the vocabulary holds.

    Args:
        dense: B x C x h x w unit vectors.
        vocabulary: K classes; of several synonyms the best counts.

    Returns:
        B x K x h x w fp32, or K + 1 with the background, which comes last.
    """
    cosines = vocabulary.cosines(dense.permute(0, 2, 3, 1).flatten(0, 2))
    return cosines.unflatten(0, (len(dense), *dense.shape[2:])).permute(0, 3, 1, 2)


def cost_volume(dense: Tensor, vocabulary: Vocabulary) -> Tensor:
    """`cell_cosines` with the classes alone, a background left out: B x K x h x w fp32."""
    return cell_cosines(dense, vocabulary)[:, : len(vocabulary)]


def class_embeddings(vocabulary: Vocabulary) -> Tensor:
    """One unit vector a class, K x C: the mean of its synonyms."""
    rows = vocabulary.text_embeddings
    means = rows.new_zeros(len(vocabulary), rows.shape[1]).index_add_(0, vocabulary.class_ids, rows)
    return F.normalize(means, dim=1)


def likely_classes(cost: Tensor, count: int) -> Tensor:
    """The classes of an image with the highest cosine anywhere in it (released code).

    Args:
        cost: B x K x h x w.
        count: how many are wanted, at most K.

    Returns:
        B x count class numbers, ascending.
    """
    return cost.flatten(2).amax(dim=2).topk(count, dim=1).indices.sort(dim=1).values


def at_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Of each image the values of its classes: B x K x ..., at B x T numbers, are B x T x ..."""
    return values[torch.arange(len(values), device=values.device)[:, None], classes]


def to_all_classes(scores: Tensor, classes: Tensor, num_classes: int, fill: float) -> Tensor:
    """The reverse of `at_classes`: B x K x h x w, `fill` where an image has no score of a class."""
    result = scores.new_full((len(scores), num_classes, *scores.shape[2:]), fill)
    result[torch.arange(len(scores), device=scores.device)[:, None], classes] = scores
    return result
