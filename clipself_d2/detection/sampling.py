"""Draw the boxes that a loss is computed on, in a number that does not depend on the device's values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Boxes drawn for a loss.

    Attributes:
        indices: ... x S long, objects before background.
        labels: ... x S: 1 for an object, 0 for the background, -1 for a place that stayed free.
    """

    indices: Tensor
    labels: Tensor


def sample_labels(labels: Tensor, count: int, positive_fraction: float) -> Sample:
    """Draw boxes at random, as Detectron2's `subsample_labels` does, which waits for a GPU four times an image.

    Args:
        labels: ... x N: 1 for an object, 0 for the background, -1 to ignore.
        count: most boxes of a row.
        positive_fraction: largest share of `count` that are objects; background takes the places that they leave.

    Returns:
        min(N, count) boxes of each row. Places stay free where the background is too small to fill them.
    """
    size = labels.shape[-1]
    keys = torch.rand(labels.shape, device=labels.device)
    most = (int(count * positive_fraction), count)
    best = [keys.where(labels == label, -1).topk(min(k, size)) for label, k in zip((1, 0), most, strict=True)]
    index = torch.cat([each.indices for each in best], dim=-1)
    drawn = torch.cat([each.values for each in best], dim=-1) >= 0
    order = drawn.byte().argsort(dim=-1, descending=True, stable=True)[..., : min(count, size)]
    index, drawn = index.gather(-1, order), drawn.gather(-1, order)
    return Sample(index, labels.gather(-1, index).where(drawn, -1))
