"""Average precision of masks of things, of every class (paper table 6)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from clipself_d2.data.instances import load_instances
from clipself_d2.errors import InputError
from clipself_d2.evaluation.coco_eval import match_detections
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.evaluation.instances import InstanceEvaluator, only
from clipself_d2.evaluation.summary import by_threshold_and_area

logger = logging.getLogger(__name__)


class MaskAPEvaluator(InstanceEvaluator):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl`` of masks of things, by the json of instances.

    Only the images that were predicted and have annotations count.
    """

    def __init__(self, dataset_name: str):
        known = MetadataCatalog.get(dataset_name)
        if "json_file" not in known.as_dict():
            raise InputError(f"data set {dataset_name!r} has no instance annotations: evaluate no instances")
        records, index, names = load_instances(known.json_file, known.image_root)
        number = known.thing_dataset_id_to_contiguous_id
        if strange := [category_id for category_id in index if category_id not in number]:
            raise InputError(
                f"the instance annotations have category {strange[0]}, the data set does not: use its own json"
            )
        # Of detections with one score, COCO takes those of the smaller image id first.
        records.sort(key=lambda record: (isinstance(record["image_id"], str), record["image_id"]))
        super().__init__(GroundTruth.of_records(dataset_name, records, names), ("segm",))
        self._num_classes = len(known.stuff_classes)
        self._classes = [number[category_id] for category_id in index]  # of the json's categories

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._unknown: list[Any] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the things of ``instances``, with the json's categories for classes."""
        categories = torch.full((self._num_classes,), -1)
        categories[self._classes] = torch.arange(len(self._classes))
        for sample, output in zip(inputs, outputs, strict=True):
            if sample["image_id"] not in self._truth.image_index:
                self._unknown.append(sample["image_id"])
                continue
            found = output["instances"].to("cpu")
            things = Instances(
                found.image_size,
                pred_boxes=Boxes(torch.zeros(len(found), 4)),  # not used, but asked for
                pred_masks=found.pred_masks,
                scores=found.scores,
                pred_classes=categories[found.pred_classes],
            )
            super().process([sample], [{"instances": things[things.pred_classes >= 0]}])

    def match(self, predictions: list[dict[str, Any]], task: str) -> np.ndarray:
        """Match the masks of the images that were predicted."""
        truth = self._truth.coco()
        found = truth.loadRes(only(task, [d for prediction in predictions for d in prediction["instances"]]))
        images = [prediction["image_id"] for prediction in predictions]
        return match_detections(truth, found, task, max_dets=[100], image_ids=images)["precision"]

    def summarize(self, ap: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Average over IoU thresholds alone: K values per metric, NaN for classes that do not occur."""
        table = {}
        for metric, values in by_threshold_and_area(ap[..., 0]).items():
            table[metric] = np.full(self._num_classes, np.nan)
            table[metric][self._classes] = values.mean(axis=0) if values.ndim == 2 else values
        return {}, table

    def evaluate(self) -> dict[str, np.ndarray]:
        """Match the masks of all images."""
        unknown = [image_id for of_rank in comm.all_gather(self._unknown) for image_id in of_rank]
        if unknown and not any(comm.all_gather(len(self._predictions))):
            raise InputError(f"image {unknown[0]} and all others are not in the instance annotations: use their json")
        if unknown:
            logger.warning("%d images are not in the instance annotations", len(unknown))
        super().evaluate()
        return self._of_class.get("segm", {})
