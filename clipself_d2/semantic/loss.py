"""What a segmentor is trained with: labels of seen classes, and the binary cross-entropy of every pixel and class."""

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
    """The labels of a training sample, counted among the seen classes.

    Args:
        sample: with ``image`` (3 x H x W) and ``sem_seg`` (H x W long, on the CPU: classes of the vocabulary, or
            `ignore_label`).
        vocabulary: K classes.

    Returns:
        H x W long: numbers among the seen classes, and -1 for pixels that are ignored or of a class that is not seen.

    Raises:
        InputError: if the labels are missing, of another size, or no class.
    """
    name = sample.get("sem_seg_file_name", sample.get("file_name", "a training image"))
    if "sem_seg" not in sample:
        raise InputError(f"{name}: has no 'sem_seg' to train on: use a semantic data set and its mapper")
    labels = sample["sem_seg"]
    if labels.shape != sample["image"].shape[1:]:
        raise InputError(
            f"{name}: its labels are {tuple(labels.shape)} (height x width), its image "
            f"{tuple(sample['image'].shape[1:])}: use the labels of this photograph"
        )
    ignored = ignore_label(sample)
    judged = labels != ignored
    wrong = labels[judged & ((labels < 0) | (labels >= len(vocabulary)))]
    if len(wrong):
        raise InputError(
            f"{name}: is labelled {int(wrong[0])}, the vocabulary has {len(vocabulary)} classes and {ignored} is "
            "ignored: use the vocabulary of this data set"
        )
    seen = vocabulary.is_base.to(labels.device)
    numbers = torch.where(seen, seen.cumsum(0) - 1, -1)
    return torch.where(judged, numbers[labels.where(judged, 0)], -1)


def draw_classes(targets: Tensor, num_classes: int, count: int) -> Tensor:
    """The classes that each image is asked about: its own, and others drawn at random.

    Args:
        targets: B x H x W long: classes, or -1.
        num_classes: K.
        count: how many are wanted, at most K; an image that has more of its own loses some.

    Returns:
        B x count class numbers, ascending.
    """
    own = torch.zeros(len(targets), num_classes + 1, device=targets.device)
    own.scatter_(1, targets.flatten(1) + 1, 2.0)
    rank = own[:, 1:] + torch.rand(len(targets), num_classes).to(targets.device)
    return rank.topk(count, dim=1).indices.sort(dim=1).values


def count_among(targets: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Targets as places in each image's own list of classes.

    Args:
        targets: B x H x W long: classes, or -1.
        classes: B x T class numbers.
        num_classes: K.

    Returns:
        B x H x W long: places 0..T-1, or -1 for classes that are not in the list.
    """
    places = torch.full((len(targets), num_classes + 1), -1, device=targets.device)
    places.scatter_(1, classes + 1, torch.arange(classes.shape[1], device=targets.device).expand_as(classes))
    return places.gather(1, targets.flatten(1) + 1).view_as(targets)


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over classes and labelled pixels (CAT-Seg; there, pixels without a label count as
    none of the classes, here they do not count).

    Args:
        logits: B x K x h x w, resized bilinearly to the labels.
        targets: B x H x W long: classes, or -1 where nothing is known.

    Returns:
        A scalar, 0 where nothing is known at all.
    """
    logits = F.interpolate(logits.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
    # the cross-entropy of all classes' logits x with one 1 among the targets: sum(softplus(x)) - x[target]
    total = F.softplus(logits).sum(dim=1)
    own = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    known = targets >= 0
    return ((total - own) * known).sum() / (known.sum().clamp(min=1) * logits.shape[1])
