"""COCO's and LVIS's matching of detections and objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipself_d2.errors import require

if TYPE_CHECKING:
    from faster_coco_eval import COCO

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
    class_ids: Collection[int] | None = None,
    use_classes: bool = True,
    federated: bool = False,
) -> dict[str, np.ndarray]:
    """Match by the rules of pycocotools or lvis and with their numbers, in C++.

    Measured against them: COCO is 9 times faster, proposals 23 times, LVIS 4 times.

    Args:
        truth: the objects.
        found: the detections, of ``truth.loadRes``.
        task: "bbox" or "segm".
        max_dets: M limits of the detections of a class in an image, ascending.
        areas: A of `AREAS`.
        image_ids: images that count; None for all.
        class_ids: K classes that count; None for all.
        use_classes: False matches objects and detections of any class, and K is 1.
        federated: LVIS's rules, by ``neg_category_ids`` and ``not_exhaustive_category_ids`` of the images.

    Returns:
        ``precision``, T x R x K x A x M, and ``recall``, T x K x A x M, in 0..1; -1 where there is no object.
    """
    from faster_coco_eval import COCOeval_faster  # of an extra, see `require_coco_eval`

    coco_eval = COCOeval_faster(truth, found, task, lvis_style=federated)
    params = coco_eval.params
    params.maxDets, params.useCats = list(max_dets), int(use_classes)
    chosen = [params.areaRngLbl.index(area) for area in areas]
    params.areaRng, params.areaRngLbl = [params.areaRng[i] for i in chosen], list(areas)
    if image_ids is not None:
        params.imgIds = sorted(image_ids)
    if class_ids is not None:
        params.catIds = sorted(class_ids)
    coco_eval.evaluate()
    coco_eval.accumulate()
    return {name: np.asarray(coco_eval.eval[name]) for name in ("precision", "recall")}
