"""Training of a segmentor: labels among the base classes, and the binary cross-entropy of each pixel and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.data.labels import ignore_label
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import Vocabulary


def class_targets(sample: Mapping[str, Any], vocabulary: Vocabulary) -> Tensor:
    """Turn the labels of a training sample into indices of base classes.

    Args:
        sample: ``image`` (3 x H x W) and ``sem_seg`` (H x W long, on the CPU: classes of the vocabulary, or
            `ignore_label`).
        vocabulary: K classes.

    Returns:
        H x W long: indices among the base classes; -1 for pixels to ignore or of a novel class.

    Raises:
        InputError: labels that are missing, of another size than the image, or outside the vocabulary.
    """
    name = sample.get("sem_seg_file_name", sample.get("file_name", "a training image"))
    if "sem_seg" not in sample:
        raise InputError(f"{name}: has no 'sem_seg' to train on: use a semantic data set and its mapper")
    labels = sample["sem_seg"]
    if labels.shape != sample["image"].shape[1:]:
        raise InputError(
            f"{name}: its labels are {tuple(labels.shape)} (height x width), its image "
            f"{tuple(sample['image'].shape[1:])}: use the labels of this image"
        )
    ignored = ignore_label(sample)
    labeled = labels != ignored
    wrong = labels[labeled & ((labels < 0) | (labels >= len(vocabulary)))]
    if len(wrong):
        raise InputError(
            f"{name}: has the label {int(wrong[0])}, the vocabulary has {len(vocabulary)} classes and {ignored} is "
            "ignored: use the vocabulary of this data set"
        )
    is_base = vocabulary.is_base.to(labels.device)
    indices = torch.where(is_base, is_base.cumsum(0) - 1, -1)
    return torch.where(labeled, indices[labels.where(labeled, 0)], -1)


def draw_classes(targets: Tensor, num_classes: int, count: int) -> Tensor:
    """Draw the classes for each image: its own, and random others.

    Args:
        targets: B x H x W long: classes, or -1.
        num_classes: K.
        count: number of classes, up to K; an image with more classes of its own loses some.

    Returns:
        B x count class indices, ascending.
    """
    own = torch.zeros(len(targets), num_classes + 1, device=targets.device)
    own.scatter_(1, targets.flatten(1) + 1, 2.0)
    rank = own[:, 1:] + torch.rand(len(targets), num_classes).to(targets.device)
    return rank.topk(count, dim=1).indices.sort(dim=1).values


def count_among(targets: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Turn targets into positions in the class list of each image.

    Args:
        targets: B x H x W long: classes, or -1.
        classes: B x T class indices.
        num_classes: K.

    Returns:
        B x H x W long: positions 0..T-1, or -1 for classes outside the list.
    """
    places = torch.full((len(targets), num_classes + 1), -1, device=targets.device)
    places.scatter_(1, classes + 1, torch.arange(classes.shape[1], device=targets.device).expand_as(classes))
    return places.gather(1, targets.flatten(1) + 1).view_as(targets)


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the binary cross-entropy, averaged over classes and labeled pixels.

    In CAT-Seg a pixel without a label counts as a negative of all classes; here it does not count.

    Args:
        logits: B x K x h x w; resized bilinearly to the labels.
        targets: B x H x W long: classes, or -1 without a label.

    Returns:
        A scalar; 0 without any label.
    """
    logits = F.interpolate(logits.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
    # With one positive class the sum over classes is sum(softplus(x)) - x[target].
    total = F.softplus(logits).sum(dim=1)
    own = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    labeled = targets >= 0
    return ((total - own) * labeled).sum() / (labeled.sum().clamp(min=1) * logits.shape[1])
