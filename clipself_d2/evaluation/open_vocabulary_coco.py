"""Boxes of OV-COCO by novel and base classes (paper table 3), and of the data sets a detector is transferred to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipself_d2.errors import InputError
from clipself_d2.evaluation.coco_eval import AREAS, match_detections
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.evaluation.instances import InstanceEvaluator
from clipself_d2.evaluation.summary import IOU_50, by_threshold_and_area, means, per_class

MAX_DETS = (1, 100, 1000)
"""Detections of a class in an image that count. The released detectors give 100 or 300 of all classes."""

PROTOCOLS = {"released": (100, 1000), "coco": (100, 100)}
"""Detections of a class in an image for AP, and for the other columns of `TransferEvaluator`.

The paper's numbers come from mmdet's arguments to pycocotools: AP at 100, all other columns at 1000.
"""


class BoxEvaluator(InstanceEvaluator):
    """Match boxes by COCO's rules; a subclass says which `areas` it needs.

    Args:
        dataset_name: a registered data set with annotations.
        output_dir: the main process writes ``per_class.json`` here. None: nowhere.

    Raises:
        InputError: if the data set is unknown or cannot be evaluated on; see `GroundTruth.load`.
    """

    areas: Sequence[str] = AREAS

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None):
        super().__init__(GroundTruth.load(dataset_name), ("bbox",), output_dir)

    def match(self, predictions: list[dict[str, Any]], task: str) -> np.ndarray:
        """Match the boxes of all images at once, within `MAX_DETS`."""
        truth = self._truth.coco()
        found = truth.loadRes([d for prediction in predictions for d in prediction["instances"]])
        return match_detections(truth, found, task, max_dets=MAX_DETS, areas=self.areas)["precision"]


class OpenVocabularyCOCOEvaluator(BoxEvaluator):
    """Evaluate boxes by the protocol of OV-COCO: AP50 of each class, averaged over novel, base and all classes.

    Results: ``bbox`` with ``AP50_novel``, ``AP50_base``, ``AP50_all``, ``AP`` (IoU .5 to .95), ``AP_novel`` and
    ``AP_base``, in percent. Each is an average over the classes that have objects and is left out where none has.
    ``per_class.json`` has AP50 and AP of every class.

    The metadata's ``novel_classes`` (names) are novel and the others base. Without that key all are base.
    """

    areas = ("all",)

    def summarize(self, ap: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Average AP50 and AP over the groups of classes."""
        novel, ap = self._truth.is_novel, ap[:, :, 0, -1]
        table = per_class(self._truth, ap, np.where(novel, "novel", "base").tolist())
        metrics = {
            "AP50_novel": ap[IOU_50, novel],
            "AP50_base": ap[IOU_50, ~novel],
            "AP50_all": ap[IOU_50],
            "AP": ap,
            "AP_novel": ap[:, novel],
            "AP_base": ap[:, ~novel],
        }
        return means(metrics), table


class TransferEvaluator(BoxEvaluator):
    """Evaluate boxes of a data set that the detector was not trained on, such as COCO and Objects365 (paper table 5).

    Results: ``bbox`` with ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl``, in percent. A metric without any
    object is left out. ``per_class.json`` has every class.

    Args:
        dataset_name: see `BoxEvaluator`.
        output_dir: see `BoxEvaluator`.
        protocol: one of `PROTOCOLS`: that of the paper's numbers, or COCO's own.

    Raises:
        InputError: for an unknown protocol or data set.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, *, protocol: str = "released"):
        if protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {protocol!r}: give one of {', '.join(PROTOCOLS)}")
        super().__init__(dataset_name, output_dir)
        self.protocol = protocol

    def summarize(self, ap: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Average over all classes: AP, AP at two thresholds, and AP by size."""
        first, rest = (ap[..., MAX_DETS.index(limit)] for limit in PROTOCOLS[self.protocol])
        metrics = by_threshold_and_area(rest) | {"AP": first[..., 0]}
        return means(metrics), per_class(self._truth, first[..., 0])
