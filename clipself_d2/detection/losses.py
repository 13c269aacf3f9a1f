"""F-ViT's losses of the second stage, as the released code computes them: sums over the number of sampled regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(is_base: Tensor, background_weight: float) -> Tensor:
    """Weights of the classes and the background: 1 for seen classes, 0 for novel ones.

    Args:
        is_base: K bool.
        background_weight: 0.6 for OV-COCO, 0.9 for OV-LVIS in the released configs.

    Returns:
        K + 1 floats, the background last.
    """
    return torch.cat([is_base.float(), is_base.new_full((1,), background_weight, dtype=torch.float32)])


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy over the classes of weight above 0, each region weighted by its class.

    The sum is divided by the number of regions, not by the sum of their weights.

    Args:
        logits: R x (K + 1).
        labels: R longs in 0..K; K is the background. None of weight 0.
        weights: K + 1, see `class_weights`.

    Returns:
        A scalar, fp32; 0 (with a graph) without regions.
    """
    logits = logits.float().masked_fill(weights == 0, float("-inf"))
    # Not logits.sum() * 0: that is NaN with -inf among them.
    losses = F.cross_entropy(logits, labels, weight=weights, reduction="none")
    return losses.sum() / max(1, len(labels))


def box_loss(deltas: Tensor, targets: Tensor, foreground: Tensor) -> Tensor:
    """L1 on the deltas of regions that hold an object, over the number of all sampled regions.

    Args:
        deltas: R x 4, class-agnostic.
        targets: R x 4; rows without an object are ignored, whatever they hold.
        foreground: R bool.

    Returns:
        A scalar, fp32.
    """
    return F.l1_loss(deltas[foreground].float(), targets[foreground], reduction="sum") / max(1, len(deltas))
