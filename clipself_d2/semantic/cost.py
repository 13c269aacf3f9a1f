"""The cost volume: the cosine of each location of the dense map with each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.vocabulary import Vocabulary


def cell_cosines(dense: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Compute the cosines of a dense map with a vocabulary.

    Args:
        dense: B x C x h x w unit vectors.
        vocabulary: K classes; a class counts with its best synonym.

    Returns:
        B x K x h x w fp32, or B x (K + 1) x h x w with a background, which comes last.
    """
    cosines = vocabulary.cosines(dense.permute(0, 2, 3, 1).flatten(0, 2))
    return cosines.unflatten(0, (len(dense), *dense.shape[2:])).permute(0, 3, 1, 2)


def cost_volume(dense: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Compute `cell_cosines` without the background: B x K x h x w fp32."""
    return cell_cosines(dense, vocabulary)[:, : len(vocabulary)]


def class_embeddings(vocabulary: Vocabulary) -> Tensor:
    """Return one unit vector per class, K x C: the mean of its synonyms."""
    rows = vocabulary.text_embeddings
    means = rows.new_zeros(len(vocabulary), rows.shape[1]).index_add_(0, vocabulary.class_ids, rows)
    return F.normalize(means, dim=1)


def likely_classes(cost: Tensor, count: int) -> Tensor:
    """Choose the classes of each image with the highest cosine anywhere in it (released code).

    Args:
        cost: B x K x h x w.
        count: number of classes, up to K.

    Returns:
        B x count class indices, ascending.
    """
    return cost.flatten(2).amax(dim=2).topk(count, dim=1).indices.sort(dim=1).values


def at_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Select the values of each image's classes: B x K x ... at B x T indices to B x T x ..."""
    return values[torch.arange(len(values), device=values.device)[:, None], classes]


def to_all_classes(scores: Tensor, classes: Tensor, num_classes: int, fill: float) -> Tensor:
    """Undo `at_classes`: B x T x h x w to B x K x h x w, with `fill` for the classes that an image lacks."""
    result = scores.new_full((len(scores), num_classes, *scores.shape[2:]), fill)
    result[torch.arange(len(scores), device=scores.device)[:, None], classes] = scores
    return result
