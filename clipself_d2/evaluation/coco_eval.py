"""COCO's matching of detections and objects."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from clipself_d2.errors import require

AREAS = ("all", "small", "medium", "large")
"""COCO's and LVIS's ranges of an object's area, in the order of their results."""


def require_coco_eval() -> None:
    """Raise an InputError unless `match_detections` can run, for the constructors of evaluators."""
    require("faster_coco_eval", "detection", "average precision")


def match_detections(
    truth: COCO,
    found: COCO,
    task: str = "bbox",
    *,
    max_dets: Sequence[int],
    areas: Sequence[str] = AREAS,
    image_ids: Collection[int] | None = None,
    use_classes: bool = True,
) -> dict[str, np.ndarray]:
    """Match by pycocotools' rules and with its numbers, in C++: nine times faster on COCO, 23 times for proposals.

    Args:
        truth: the objects.
        found: the detections, of ``truth.loadRes``.
        task: "bbox" or "segm".
        max_dets: M limits of the detections of a class in an image, ascending.
        areas: A of `AREAS`.
        image_ids: images that count; None for all.
        use_classes: False matches objects and detections of any class, and K is 1.

    Returns:
        ``precision``, T x R x K x A x M, and ``recall``, T x K x A x M, in 0..1; -1 where there is no object.
    """
    from faster_coco_eval import COCOeval_faster  # of an extra, see `require_coco_eval`

    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = COCOeval_faster(truth, found, task)
        params = coco_eval.params
        params.maxDets, params.useCats = list(max_dets), int(use_classes)
        chosen = [params.areaRngLbl.index(area) for area in areas]
        params.areaRng, params.areaRngLbl = [params.areaRng[i] for i in chosen], list(areas)
        if image_ids is not None:
            params.imgIds = sorted(image_ids)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return {name: np.asarray(coco_eval.eval[name]) for name in ("precision", "recall")}


def load_results(truth: COCO, results: list[dict[str, Any]]) -> COCO:
    """Index detections, of which there is at least one, as pycocotools does."""
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes(results)
