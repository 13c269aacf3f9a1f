"""The lvis package on one class of data in memory. Slow to import (it draws, too): import it where it is needed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import Any

import lvis.eval
import numpy as np
from lvis import LVIS, LVISEval, LVISResults

from clipself_d2.evaluation.ground_truth import Objects


def judge(
    truth: Objects, found: Objects, images: Sequence[dict[str, Any]], not_exhaustive: Collection[int], task: str
) -> np.ndarray:
    """Matches the detections of one class with its objects by LVIS's protocol.

    Args:
        truth: the objects of the class.
        found: its detections in these images.
        images: the images that are labelled for the class, as having it or not: ``id``, ``height``, ``width``.
        not_exhaustive: ids of those where some of its objects may be unlabelled; wrong detections do not count there.
        task: "segm" or "bbox".

    Returns:
        T x R x A precisions (10 IoU thresholds, 101 recalls; all, small, medium and large), 0..1, and -1 where there is
        no object.
    """
    records = [
        {**image, "neg_category_ids": [1], "not_exhaustive_category_ids": [1] if image["id"] in not_exhaustive else []}
        for image in images
    ]
    masks = task == "segm"
    with _quiet(), _numpy_with_float():
        data, results = _Data(records, truth.to_coco(masks=masks)), _Results(records, found.to_coco(masks=masks))
        judged = LVISEval(data, results, task)
        judged.evaluate()
        judged.accumulate()
    return judged.eval["precision"][:, :, 0]


class _Data(LVIS):
    """Annotations of one class, from memory instead of a file."""

    def __init__(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]):
        categories = [{"id": 1, "frequency": "f"}]  # the groups of classes are formed elsewhere
        LVIS.__init__(self, {"images": images, "annotations": annotations, "categories": categories})

    def _load_json(self, dataset: dict[str, Any]) -> dict[str, Any]:
        return dataset


class _Results(_Data, LVISResults):
    """Detections, which may be none at all."""


class _Numpy(ModuleType):
    """NumPy as lvis 0.5.3 knew it: `np.float`, which lvis still names, is gone since 1.24."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextlib.contextmanager
def _numpy_with_float() -> Iterator[None]:
    """Shows `_Numpy` to lvis's own module and to nobody else, for a while."""
    before = lvis.eval.np
    lvis.eval.np = _Numpy("numpy")
    try:
        yield
    finally:
        lvis.eval.np = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences lvis, which would speak for every class."""
    logger = logging.getLogger("lvis")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
