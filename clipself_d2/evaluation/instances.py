"""Boxes and masks of any registered data set: what the evaluators of COCO, LVIS and panoptic things have in common."""

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
from clipself_d2.evaluation.coco_eval import require_coco_eval
from clipself_d2.evaluation.detections import checked_input, checked_instances, each_image_once
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.evaluation.summary import average_precision, write_json

Detections = list[dict[str, Any]]
"""Records of a COCO results file."""


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's evaluator on a `GroundTruth`; a subclass matches detections and summarizes the precision.

    Detections whose box or score is not finite are dropped. An image that comes twice counts once. Images without
    detections count.

    Args:
        truth: the data set.
        tasks: "bbox", "segm" or both.
        output_dir: the main process writes ``per_class.json`` here. None: nowhere.

    Raises:
        InputError: masks are evaluated, but objects have none.
    """

    def __init__(self, truth: GroundTruth, tasks: Sequence[str], output_dir: str | Path | None = None):
        require_coco_eval()
        # COCOEvaluator's own constructor reads the metadata's json file; see `GroundTruth`.
        bare = sum("segmentation" not in a for a in truth.annotations)
        if "segm" in tasks and bare:
            raise InputError(
                f"data set {truth.dataset_name!r}: {bare} of {len(truth.annotations)} objects have no mask: evaluate "
                "boxes alone, or give them a 'segmentation'"
            )
        self._truth = truth
        self._tasks = tuple(tasks)
        self._logger = logging.getLogger(__name__)
        self._cpu_device = torch.device("cpu")
        self._distributed = True
        self._output_dir = None  # there COCOEvaluator pickles all predictions
        self._folder = None if output_dir is None else Path(output_dir)
        self._of_class: dict[str, dict[str, Any]] = {}
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the detections of some images; see `checked_instances` for the arguments and errors."""
        pairs = list(zip(inputs, outputs, strict=True))
        found = [{"instances": checked_instances(self._truth, *pair, masks="segm" in self._tasks)} for pair in pairs]
        super().process([checked_input(self._truth, sample) for sample in inputs], found)

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: None = None) -> None:
        predictions = each_image_once(predictions)
        self._of_class = {}
        for task in self._tasks:
            ap = average_precision(self.match(predictions, task))
            self._results[task], self._of_class[task] = metrics, _ = self.summarize(ap)
            if metrics:
                self._logger.info("%s, %s:\n%s", self._truth.dataset_name, task, create_small_table(metrics))
        write_json(self._folder, "per_class.json", self._of_class)

    @abstractmethod
    def match(self, predictions: list[dict[str, Any]], task: str) -> np.ndarray:
        """Match detections and objects.

        Args:
            predictions: of each image its ``image_id`` and, as ``instances``, its `Detections`.
            task: "bbox" or "segm".

        Returns:
            The precision, T x R x K x A x M; see `match_detections`.
        """

    @abstractmethod
    def summarize(self, ap: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the metrics of a task, and what is known of each class.

        Args:
            ap: average precisions in percent, T x K x A x M, NaN where there is no object.
        """


def only(task: str, detections: Sequence[Mapping[str, Any]]) -> Detections:
    """Copy detections with their box alone, or with their mask, whose area counts then and not the box's."""
    field = "segmentation" if task == "segm" else "bbox"
    return [{key: d[key] for key in ("image_id", "category_id", "score", field)} for d in detections]
