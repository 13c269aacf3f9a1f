"""The arithmetic of panoptic quality, mask AP and mIoU: numbers of every class, and means over groups of classes."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipself_d2.errors import InputError

if TYPE_CHECKING:
    from panopticapi.evaluation import PQStat

logger = logging.getLogger(__name__)


def class_groups(isthing: np.ndarray, novel: np.ndarray) -> dict[str, np.ndarray]:
    """The classes that each suffix of a metric stands for, K bool; those without any class are left out.

    Args:
        isthing: K bool.
        novel: K bool; without novel classes there are no suffixes for seen and novel ones.
    """
    kinds = {"": np.ones_like(isthing), **({"_th": isthing, "_st": ~isthing} if isthing.any() else {})}
    parts = {"": np.ones_like(isthing), **({"_seen": ~novel, "_novel": novel} if novel.any() else {})}
    groups = {kind + part: a & b for kind, a in kinds.items() for part, b in parts.items()}
    return {suffix: group for suffix, group in groups.items() if group.any()}


def group_means(table: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric (K, NaN for classes that do not occur) over each group that has a class."""
    values = {m + suffix: column[group] for suffix, group in groups.items() for m, column in table.items()}
    return {name: float(np.nanmean(v)) for name, v in values.items() if not np.isnan(v).all()}


def panoptic_quality(stat: PQStat, num_classes: int) -> dict[str, np.ndarray]:
    """``PQ``, ``SQ`` and ``RQ`` of each class in percent; NaN if it occurs neither in labels nor in predictions."""
    counts = [stat.pq_per_cat.get(k) for k in range(num_classes)]
    iou, tp, fp, fn = np.array([(c.iou, c.tp, c.fp, c.fn) if c else (0.0,) * 4 for c in counts]).T
    with np.errstate(invalid="ignore"):
        recognised = np.where(tp + fp + fn > 0, tp / (tp + fp / 2 + fn / 2), np.nan)
        segmented = np.where(
            tp > 0, iou / np.maximum(tp, 1), recognised
        )  # 0 where nothing was found, NaN where nothing is
    return {"PQ": 100 * recognised * segmented, "SQ": 100 * segmented, "RQ": 100 * recognised}


def mask_average_precision(
    truth: COCO, found: Mapping[Any, Sequence[Mapping[str, Any]]], numbers: Mapping[int, int], num_classes: int
) -> dict[str, np.ndarray]:
    """COCO's average precision of each class, on the judged images that have annotations.

    Args:
        truth: the instance annotations.
        found: by image id, COCO's results (``category_id``, ``segmentation`` run-length encoded, ``score``).
        numbers: the class of each category id.
        num_classes: K.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``: K percentages, NaN where there is no such object.

    Raises:
        InputError: if the annotations have none of the images, or a category that the classes lack.
    """
    images = sorted(image for image in found if image in truth.imgs)
    if not images:
        raise InputError(
            f"image {next(iter(found))} and all others are not in the instance annotations: use their json"
        )
    if len(images) < len(found):
        logger.warning("%d of %d images are not in the instance annotations", len(found) - len(images), len(found))
    if strange := [id_ for id_ in truth.cats if id_ not in numbers]:
        raise InputError(f"the instance annotations have category {strange[0]}, the data set has not: use its own json")
    detections = [{"image_id": image, **result} for image in images for result in found[image]]
    for number, detection in enumerate(detections, 1):
        detection.update(id=number, area=int(coco_mask.area(detection["segmentation"])))
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = {**{k: truth.dataset[k] for k in ("images", "categories")}, "annotations": detections}
        api.createIndex()
        judged = COCOeval(truth, api, "segm")
        judged.params.imgIds = images
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][..., -1]  # IoU threshold x recall x class x area
    averages = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1)) * 100
    classes = [numbers[id_] for id_ in judged.params.catIds]
    columns = {
        "AP": averages[:, :, 0].mean(axis=0),
        "AP50": averages[0, :, 0],
        "AP75": averages[5, :, 0],
        **{f"AP{size}": averages[:, :, area].mean(axis=0) for area, size in enumerate("sml", 1)},
    }
    table = {metric: np.full(num_classes, np.nan) for metric in columns}
    for metric, column in columns.items():
        table[metric][classes] = column
    return table


def semantic_accuracy(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """``mIoU`` and ``mACC`` of each class in percent, NaN where it is not labelled.

    Args:
        confusion: K x K, pixels by predicted and by labelled class.
    """
    hits, labelled, predicted = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(labelled > 0, hits / (labelled + predicted - hits), np.nan)
        accuracy = np.where(labelled > 0, hits / labelled, np.nan)
    return {"mIoU": 100 * iou, "mACC": 100 * accuracy}


def pixel_accuracy(confusion: np.ndarray) -> dict[str, float]:
    """``fwIoU`` (IoU weighted with the labelled pixels) and ``pACC`` (of all pixels) in percent."""
    labelled = confusion.sum(axis=0)
    weights = labelled / labelled.sum()
    iou = semantic_accuracy(confusion)["mIoU"]
    return {
        "fwIoU": float(np.nansum(iou * weights)),
        "pACC": float(100 * confusion.diagonal().sum() / labelled.sum()),
    }
