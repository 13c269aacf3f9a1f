"""Boxes of OV-COCO by novel and base classes (paper table 3), and of the data sets a detector is transferred to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipself_d2.errors import InputError
from clipself_d2.evaluation.average_precision import AREAS, IOU_50, IOU_75, average_precision, means, per_class
from clipself_d2.evaluation.detections import DetectionEvaluator, Results
from clipself_d2.evaluation.ground_truth import GroundTruth, Objects, novel_classes

MAX_DETS = 1000
"""Detections of a class in an image; the released detectors give 100 or 300 of all classes."""

PROTOCOLS = {"released": (100, MAX_DETS), "coco": (100, 100)}
"""Detections of a class in an image for AP, and for the other columns of `TransferEvaluator`.

The paper's numbers come of mmdet's arguments to pycocotools: AP at 100, all other columns at 1000.
"""


class OpenVocabularyCOCOEvaluator(DetectionEvaluator):
    """Judges boxes by the protocol of OV-COCO: AP50 of each class, averaged over novel, base and all classes.

    Results: ``bbox`` with ``AP50_novel``, ``AP50_base``, ``AP50_all``, ``AP`` (IoU .5 to .95), ``AP_novel`` and
    ``AP_base``, in percent, averaged over the classes that have ground truth; left out where none has. With an output
    folder ``per_class.json`` has AP50 and AP of every class.

    Classes are novel by the metadata's ``novel_classes`` (names), the others are base. Without that key all are base.
    """

    def judge(self, truth: GroundTruth, found: Objects) -> Results:
        """AP50 and AP, averaged over the groups of classes."""
        novel = novel_classes(self.dataset_name)
        if novel is None:
            novel = np.zeros(len(truth.names), dtype=bool)
        ap = average_precision(truth, found, max_dets=(MAX_DETS,))[:, :, 0, 0]
        self.write("per_class.json", {"bbox": per_class(truth, ap, np.where(novel, "novel", "base").tolist())})
        return {
            "bbox": means(
                {
                    "AP50_novel": ap[novel, IOU_50],
                    "AP50_base": ap[~novel, IOU_50],
                    "AP50_all": ap[:, IOU_50],
                    "AP": ap,
                    "AP_novel": ap[novel],
                    "AP_base": ap[~novel],
                }
            )
        }


class TransferEvaluator(DetectionEvaluator):
    """Judges boxes of a data set that the detector was not trained on, such as COCO and Objects365 (paper table 5).

    Results: ``bbox`` with ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl``, in percent. What has no ground
    truth is left out. With an output folder ``per_class.json`` has every class.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, *, protocol: str = "released"):
        """Prepares for a data set.

        Args:
            dataset_name: a registered data set with annotations.
            output_dir: where rank 0 writes ``per_class.json``. None: nowhere.
            protocol: one of `PROTOCOLS`: that of the paper's numbers, or COCO's own.

        Raises:
            InputError: for an unknown protocol.
        """
        if protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {protocol!r}: give one of {', '.join(PROTOCOLS)}")
        super().__init__(dataset_name, output_dir)
        self.protocol = protocol

    def judge(self, truth: GroundTruth, found: Objects) -> Results:
        """AP over all classes and thresholds, at two thresholds, and by size."""
        limits = PROTOCOLS[self.protocol]
        ap = average_precision(truth, found, areas=tuple(AREAS), max_dets=limits)
        first, rest = ap[..., 0], ap[..., -1]
        self.write("per_class.json", {"bbox": per_class(truth, first[..., 0])})
        return {
            "bbox": means(
                {
                    "AP": first[..., 0],
                    "AP50": rest[:, IOU_50, 0],
                    "AP75": rest[:, IOU_75, 0],
                    **{f"AP{area[0]}": rest[..., i] for i, area in enumerate(AREAS) if area != "all"},
                }
            )
        }
