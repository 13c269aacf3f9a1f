"""Average precision of each class by COCO's protocol: pycocotools judges, class by class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipself_d2.evaluation.ground_truth import GroundTruth, Objects

IOU_50, IOU_75 = 0, 5
"""Indices of two of the thresholds .5, .55, ..., .95."""

AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Ranges of an object's area, in pixels."""


def judge(
    truth: Objects, found: Objects, *, areas: Sequence[str] = ("all",), max_dets: Sequence[int] = (100,)
) -> dict[str, np.ndarray]:
    """Matches the detections of one class with its objects.

    Images without either do not bear on the result, so pycocotools is given the others only: what it takes then grows
    with the objects and detections, not with images times classes.

    Args:
        truth: the objects of the class.
        found: its detections, those of an image in any order.
        areas: which of `AREAS` (A).
        max_dets: only so many detections of an image, the best, are considered; ascending (M).

    Returns:
        COCOeval's ``precision`` (T x R x A x M: 10 IoU thresholds, 101 recalls) and ``recall`` (T x A x M), 0..1, and
        -1 where there is no object.
    """
    images = [{"id": int(i)} for i in np.union1d(truth.images, found.images)]
    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCOeval(_coco(images, truth), _coco(images, found), "bbox")
        judged.params.areaRngLbl = list(areas)
        judged.params.areaRng = [list(AREAS[area]) for area in areas]
        judged.params.maxDets = list(max_dets)
        judged.evaluate()
        judged.accumulate()
    return {name: judged.eval[name][..., 0, :, :] for name in ("precision", "recall")}


def average_precision(
    truth: GroundTruth, found: Objects, *, areas: Sequence[str] = ("all",), max_dets: Sequence[int] = (100,)
) -> np.ndarray:
    """Average precision of boxes (the mean over 101 recalls), of each class.

    Args:
        truth: the data set.
        found: detections of any of its classes.
        areas: which of `AREAS` (A).
        max_dets: see `judge` (M).

    Returns:
        K x T x A x M percentages; NaN where there is no object.
    """
    pairs = zip(truth.objects.by_class(len(truth.names)), found.by_class(len(truth.names)), strict=True)
    result = np.full((len(truth.names), 10, len(areas), len(max_dets)), np.nan)
    for k, (objects, detections) in enumerate(pairs):
        if len(objects):
            result[k] = mean_over_recalls(judge(objects, detections, areas=areas, max_dets=max_dets)["precision"])
    return result


def mean_over_recalls(precision: np.ndarray) -> np.ndarray:
    """COCOeval's precision (T x R x .., 0..1, -1 where undefined) to average precision: T x .. percent, NaN there."""
    return 100 * np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


def means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each array over what is defined; an array without any such value is left out."""
    return {name: float(np.nanmean(array)) for name, array in values.items() if np.isfinite(array).any()}


def per_class(truth: GroundTruth, ap: np.ndarray, groups: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """A table of the classes that have objects.

    Args:
        truth: the data set.
        ap: K x T average precisions.
        groups: what to call the group of each class; none if None.

    Returns:
        ``{class: {"instances", "AP", "AP50"[, "group"]}}``.
    """
    return {
        truth.names[k]: {
            "instances": int(truth.counts[k]),
            "AP": float(ap[k].mean()),
            "AP50": float(ap[k, IOU_50]),
            **({} if groups is None else {"group": groups[k]}),
        }
        for k in np.flatnonzero(np.isfinite(ap).all(axis=1))
    }


def _coco(images: list[dict[str, Any]], objects: Objects) -> COCO:
    api = COCO()
    api.dataset = {"images": images, "annotations": objects.to_coco(), "categories": [{"id": 1}]}
    api.createIndex()
    return api
