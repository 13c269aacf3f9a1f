"""From the precision of each class to the metrics and tables that are reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipself_d2.evaluation.coco_eval import AREAS
from clipself_d2.evaluation.ground_truth import GroundTruth

IOU_50, IOU_75 = 0, 5
"""Indices of two of the IoU thresholds .5, .55, ..., .95."""


def average_precision(precision: np.ndarray) -> np.ndarray:
    """Average COCO's or LVIS's precision over recalls.

    Args:
        precision: T x R x .. in 0..1, -1 where there is no object.

    Returns:
        T x .. in percent, NaN where there is no object.
    """
    return 100 * np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


def by_threshold_and_area(ap: np.ndarray) -> dict[str, np.ndarray]:
    """Name the columns of COCO's and LVIS's tables: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl``.

    Args:
        ap: T x K x A average precisions.
    """
    sizes = {f"AP{area[0]}": ap[..., i] for i, area in enumerate(AREAS) if area != "all"}
    return {"AP": ap[..., 0], "AP50": ap[IOU_50, :, 0], "AP75": ap[IOU_75, :, 0], **sizes}


def means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Average each array over what is not NaN; an array without such a value is left out."""
    return {name: float(np.nanmean(array)) for name, array in values.items() if np.isfinite(array).any()}


def per_class(truth: GroundTruth, ap: np.ndarray, groups: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Tabulate the classes that have objects.

    Args:
        truth: the data set.
        ap: T x K average precisions.
        groups: the name of each class's group, if there are groups.

    Returns:
        ``{class: {"instances", "AP", "AP50"[, "group"]}}``.
    """
    counts = truth.counts
    return {
        truth.classes[k]: {
            "instances": int(counts[k]),
            "AP": float(ap[:, k].mean()),
            "AP50": float(ap[IOU_50, k]),
            **({} if groups is None else {"group": groups[k]}),
        }
        for k in np.flatnonzero(np.isfinite(ap).all(axis=0))
    }


def write_json(folder: Path | None, name: str, content: Any) -> None:
    """Write a json file into a folder, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
