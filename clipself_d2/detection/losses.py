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
        labels: R long in 0..K, where K is the background, or -1 to leave a region out; no class of weight 0.
        weights: K + 1, see `class_weights`.

    Returns:
        A scalar, fp32; 0 (with a graph) without regions.
    """
    logits = logits.float().masked_fill(weights == 0, float("-inf"))
    # Without regions this sum is 0 with a graph; logits.sum() * 0 would be NaN because of the -inf.
    losses = F.cross_entropy(logits, labels, weight=weights, reduction="none", ignore_index=-1)
    return losses.sum() / (labels >= 0).sum().clamp(min=1)


def box_loss(deltas: Tensor, targets: Tensor, foreground: Tensor) -> Tensor:
    """Compute the sum of the L1 losses on the deltas of foreground regions.

    Args:
        deltas: R x 4, class-agnostic.
        targets: R x 4; background rows are ignored.
        foreground: R bool.

    Returns:
        A scalar, fp32.
    """
    return (deltas.float() - targets).where(foreground[:, None], 0).abs().sum()


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy of masks; logits and bool targets are R x S x S."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())
