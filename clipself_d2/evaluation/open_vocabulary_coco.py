"""Boxes of OV-COCO by novel and base classes (paper table 3), and of the data sets a detector is transferred to."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.logger import create_small_table

from clipself_d2.errors import InputError
from clipself_d2.evaluation.coco_eval import AREAS, load_results, match_detections, require_coco_eval
from clipself_d2.evaluation.detections import checked_input, checked_instances, results_of
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.evaluation.summary import IOU_50, IOU_75, average_precision, means, per_class, write_json

MAX_DETS = (1, 100, 1000)
"""Detections of a class in an image that count. The released detectors give 100 or 300 of all classes."""

PROTOCOLS = {"released": (100, 1000), "coco": (100, 100)}
"""Detections of a class in an image for AP, and for the other columns of `TransferEvaluator`.

The paper's numbers come from mmdet's arguments to pycocotools: AP at 100, all other columns at 1000.
"""


class BoxEvaluator(COCOEvaluator):
    """Detectron2's evaluator of boxes for any registered data set; a subclass summarizes the result.

    A subclass says which `areas` it needs.

    Detections whose box or score is not finite are dropped. An image that comes twice counts once. Images without
    detections count.

    Args:
        dataset_name: a registered data set with annotations.
        output_dir: the main process writes ``per_class.json`` here. None: nowhere.

    Raises:
        InputError: if the data set is unknown or cannot be evaluated on; see `GroundTruth.load`.
    """

    areas: Sequence[str] = AREAS

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None):
        require_coco_eval()
        # COCOEvaluator's own constructor reads the metadata's json file; see `GroundTruth`.
        self._truth = GroundTruth.load(dataset_name)
        self._coco_api = self._truth.coco()
        self._logger = logging.getLogger(__name__)
        self._cpu_device = torch.device("cpu")
        self._distributed = True
        self._output_dir = None  # there COCOEvaluator pickles all predictions
        self._folder = None if output_dir is None else Path(output_dir)
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the detections of some images; see `checked_instances` for the arguments and errors."""
        pairs = list(zip(inputs, outputs, strict=True))
        found = [{"instances": checked_instances(self._truth, *pair)} for pair in pairs]
        super().process([checked_input(self._truth, sample) for sample in inputs], found)

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: None = None) -> None:
        found = load_results(self._coco_api, results_of(predictions))
        matched = match_detections(self._coco_api, found, max_dets=MAX_DETS, areas=self.areas)
        self._results["bbox"] = results = self.summarize(average_precision(matched["precision"]))
        self._logger.info("%s, bbox:\n%s", self._truth.dataset_name, create_small_table(results))

    @abstractmethod
    def summarize(self, ap: np.ndarray) -> dict[str, float]:
        """Name the metrics.

        Args:
            ap: average precisions in percent, T x K x A x M: IoU thresholds, classes, areas, `MAX_DETS`; NaN where
                there is no object.
        """


class OpenVocabularyCOCOEvaluator(BoxEvaluator):
    """Evaluate boxes by the protocol of OV-COCO: AP50 of each class, averaged over novel, base and all classes.

    Results: ``bbox`` with ``AP50_novel``, ``AP50_base``, ``AP50_all``, ``AP`` (IoU .5 to .95), ``AP_novel`` and
    ``AP_base``, in percent. Each is an average over the classes that have objects and is left out where none has.
    ``per_class.json`` has AP50 and AP of every class.

    The metadata's ``novel_classes`` (names) are novel and the others base. Without that key all are base.
    """

    areas = ("all",)

    def summarize(self, ap: np.ndarray) -> dict[str, float]:
        """Average AP50 and AP over the groups of classes."""
        novel, ap = self._truth.is_novel, ap[:, :, 0, -1]
        table = per_class(self._truth, ap, np.where(novel, "novel", "base").tolist())
        write_json(self._folder, "per_class.json", {"bbox": table})
        return means(
            {
                "AP50_novel": ap[IOU_50, novel],
                "AP50_base": ap[IOU_50, ~novel],
                "AP50_all": ap[IOU_50],
                "AP": ap,
                "AP_novel": ap[:, novel],
                "AP_base": ap[:, ~novel],
            }
        )


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

    def summarize(self, ap: np.ndarray) -> dict[str, float]:
        """Average over all classes: AP, AP at two thresholds, and AP by size."""
        first, rest = (ap[..., MAX_DETS.index(limit)] for limit in PROTOCOLS[self.protocol])
        write_json(self._folder, "per_class.json", {"bbox": per_class(self._truth, first[..., 0])})
        return means(
            {
                "AP": first[..., 0],
                "AP50": rest[IOU_50, :, 0],
                "AP75": rest[IOU_75, :, 0],
                **{f"AP{area[0]}": rest[..., i] for i, area in enumerate(AREAS) if area != "all"},
            }
        )
