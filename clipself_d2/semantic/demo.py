"""Semantic segmentation of anybody's pictures, with anybody's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from clipself_d2.engine.config import build, target
from clipself_d2.errors import InputError
from clipself_d2.evaluation.ground_truth import json_mask
from clipself_d2.semantic.cat_seg import CATSeg
from clipself_d2.semantic.zero_shot import ZeroShotSegmenter
from clipself_d2.vocabulary import Vocabulary, build_vocabulary

Segmentation = tuple[Tensor, Tensor]
"""The class of every pixel, H x W long, -1 for none, and its score."""


def user_vocabulary(cfg: DictConfig, classes: Sequence[Sequence[str]]) -> Vocabulary:
    """Embeds a user's words by the text tower of a semantic config.

    Args:
        cfg: exports the `model`, and `model.vocabulary.text`, a `TextClassifier`.
        classes: a class is a sequence of synonyms, the first of which is its name.

    Raises:
        InputError: a config of another task, or words that make no vocabulary.
    """
    kind = target(cfg.model)
    if not isinstance(kind, type) or not issubclass(kind, (CATSeg, ZeroShotSegmenter)):
        raise InputError("the config is not of semantic segmentation: use one of configs/semantic")
    return build_vocabulary(classes, build(cfg, "model.vocabulary.text"), background=None)


def segment(
    model: nn.Module, images: Iterable[Tensor], vocabulary: Vocabulary, precision: Any, threshold: float = 0.0
) -> Iterator[tuple[Tensor, Segmentation]]:
    """Runs a model on images.

    Args:
        model: a `CATSeg` or a `ZeroShotSegmenter` in evaluation mode.
        images: 3 x H x W uint8 RGB, of any sizes.
        vocabulary: the classes to look for.
        precision: a context in which the model runs, as `engine.inference.autocast` gives.
        threshold: pixels with a lower score are of no class, as are those that the model calls background.

    Yields:
        Each image with its segmentation, on the CPU.
    """
    for image in images:
        with torch.inference_mode(), precision:
            [output] = model([{"image": image}], vocabulary=vocabulary)
        scores, labels = output["sem_seg"].max(dim=0)
        nothing = scores < threshold
        if "background" in output:
            nothing |= output["background"]
        yield image, (labels.masked_fill(nothing, -1).cpu(), scores.cpu())


def to_results(found: Segmentation, vocabulary: Vocabulary, image_id: int) -> list[dict[str, Any]]:
    """The classes of an image for a json, largest first.

    Returns:
        ``image_id``, ``category_id`` (from 0, in the vocabulary's order), ``name``, ``score`` (the mean of its pixels),
        ``area`` in pixels and ``segmentation``, COCO's RLE.
    """
    labels, scores = found
    numbers, areas = labels[labels >= 0].unique(return_counts=True)
    results = []
    for place in areas.argsort(descending=True, stable=True).tolist():
        number = int(numbers[place])
        mask = labels == number
        results.append(
            {
                "image_id": image_id,
                "category_id": number,
                "name": vocabulary.names[number],
                "score": round(float(scores[mask].mean()), 4),
                "area": int(areas[place]),
                "segmentation": json_mask(mask),
            }
        )
    return results
