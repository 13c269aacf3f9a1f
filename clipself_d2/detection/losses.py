"""Losses of F-ViT's second stage, divided by the number of sampled regions as in the released code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(is_base: Tensor, background_weight: float) -> Tensor:
    """Return the weights of classes and background: 1 for base classes, 0 for novel ones.

    Args:
        is_base: K bool.
        background_weight: 0.6 for OV-COCO, 0.9 for OV-LVIS in the released configs.

    Returns:
        K + 1 floats, the background last.
    """
    return torch.cat([is_base.float(), is_base.new_full((1,), background_weight, dtype=torch.float32)])


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Compute the cross-entropy over the classes of positive weight, each region weighted by its class.

    The sum is divided by the number of regions, not by the sum of their weights.

    Args:
        logits: R x (K + 1).
        labels: R long in 0..K, where K is the background; no class of weight 0.
        weights: K + 1, see `class_weights`.

    Returns:
        A scalar, fp32; 0 (with a graph) without regions.
    """
    logits = logits.float().masked_fill(weights == 0, float("-inf"))
    # Without regions this sum is 0 with a graph; logits.sum() * 0 would be NaN because of the -inf.
    losses = F.cross_entropy(logits, labels, weight=weights, reduction="none")
    return losses.sum() / max(1, len(labels))


def box_loss(deltas: Tensor, targets: Tensor, foreground: Tensor) -> Tensor:
    """Compute the L1 loss on the deltas of foreground regions, divided by the number of all sampled regions.

    Args:
        deltas: R x 4, class-agnostic.
        targets: R x 4; background rows are ignored.
        foreground: R bool.

    Returns:
        A scalar, fp32.
    """
    return F.l1_loss(deltas[foreground].float(), targets[foreground], reduction="sum") / max(1, len(deltas))
