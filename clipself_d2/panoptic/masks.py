"""The protocol of mask generators, and the ground truth as a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import Vocabulary

CERTAIN_LOGIT = 20.0
"""Logit of a pixel that is certainly inside a binary mask: sigmoid(20) is 1 - 2e-9, and fp16 holds it exactly."""


@dataclass
class MaskPredictions:
    """The masks that a generator finds in one image, with its class scores.

    Attributes:
        masks: Q x h x w float logits of the whole image without padding, at any resolution; above 0 is inside.
        log_scores: Q x (K + 1) log probabilities over the classes of the call's vocabulary, void last.
        mask_iou: Q predicted IoUs in 0..1, which multiply the final scores; None for 1.
    """

    masks: Tensor
    log_scores: Tensor
    mask_iou: Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def to(self, device: torch.device | str) -> MaskPredictions:
        """Move to another device."""
        mask_iou = None if self.mask_iou is None else self.mask_iou.to(device)
        return replace(self, masks=self.masks.to(device), log_scores=self.log_scores.to(device), mask_iou=mask_iou)

    def check(self, height: int, width: int, num_classes: int, source: str = "mask generator") -> MaskPredictions:
        """Check that the predictions fit an image and a vocabulary.

        Args:
            height: rows of the image.
            width: its columns.
            num_classes: K.
            source: what made the predictions, for the message.

        Returns:
            Itself.

        Raises:
            InputError: a wrong shape or type, or masks of another aspect than the image's.
        """
        if self.masks.ndim != 3 or not self.masks.is_floating_point():
            raise InputError(
                f"{source}: masks are {tuple(self.masks.shape)} {self.masks.dtype}, not Q x h x w float logits: "
                "give logits, above 0 inside"
            )
        if self.log_scores.shape != (len(self), num_classes + 1):
            raise InputError(
                f"{source}: log_scores are {tuple(self.log_scores.shape)} for {len(self)} masks and {num_classes} "
                "classes: give a column for each class and, last, one for void"
            )
        if self.mask_iou is not None and self.mask_iou.shape != (len(self),):
            raise InputError(f"{source}: mask_iou is {tuple(self.mask_iou.shape)} for {len(self)} masks: give one each")
        if len(self):
            _check_aspect(self.masks.shape[-2:], height, width, source)
        return self


class MaskGenerator(Protocol):
    """Whatever finds masks: a trained network, a file of saved predictions, the ground truth."""

    def __call__(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """Find the masks of images.

        Args:
            inputs: samples with `image` (3 x H x W uint8), `height`, `width`, `image_id`, `file_name`.
            vocabulary: the classes that the scores are about.

        Returns:
            The predictions of every image.
        """


class GroundTruthMasks:
    """A mask generator that returns the sample's own segments: the upper bound of what CLIP's scores can reach."""

    def __call__(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """Turn `masks` (R x H x W bool) and `classes` (R long) of the samples into certain predictions.

        A segment's class has probability 1. Without `classes` all classes are equal. Void has probability 0.

        Raises:
            InputError: a sample without `masks`, or with classes that the vocabulary lacks.
        """
        return [_certain(sample, len(vocabulary)) for sample in inputs]


def binary_logits(masks: Tensor) -> Tensor:
    """Bool masks as fp16 logits."""
    return (masks.half() - 0.5) * (2 * CERTAIN_LOGIT)


def check_classes(classes: Tensor, num_classes: int, name: str) -> None:
    """Raise an InputError for class numbers outside 0..num_classes - 1; `name` is the sample's."""
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise InputError(
            f"{name}: has a segment of class {int(classes.max())}, the vocabulary has {num_classes} classes: use the "
            "vocabulary of this data set"
        )


def _certain(sample: Mapping[str, Any], num_classes: int) -> MaskPredictions:
    name = sample.get("file_name", "sample")
    if "masks" not in sample:
        raise InputError(f"{name}: has no ground-truth 'masks': use a panoptic data set, or another mask generator")
    masks: Tensor = sample["masks"]
    scores = torch.zeros(len(masks), num_classes + 1, device=masks.device)
    if "classes" in sample:
        classes: Tensor = sample["classes"]
        if len(classes) != len(masks):
            raise InputError(f"{name}: has {len(masks)} masks and {len(classes)} classes: give one for each mask")
        check_classes(classes, num_classes, name)
        scores.scatter_(1, classes.to(masks.device)[:, None], 1)
    else:
        scores[:, :-1] = 1 / num_classes
    return MaskPredictions(binary_logits(masks), scores.log())


def _check_aspect(size: Sequence[int], height: int, width: int, source: str) -> None:
    """Raise an InputError if no scale brings the image to the masks' size, to one pixel of the mask."""
    low = max((size[0] - 1) / height, (size[1] - 1) / width)
    high = min((size[0] + 1) / height, (size[1] + 1) / width)
    if low > high:
        raise InputError(
            f"{source}: masks of {size[1]} x {size[0]} pixels do not have the aspect of the image, {width} x {height}: "
            "give the masks of this image, without padding"
        )
