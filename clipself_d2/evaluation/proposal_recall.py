"""Average recall of class-agnostic proposals, on all boxes and on those of base and novel classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils.logger import create_small_table

from clipself_d2.evaluation.coco_eval import match_detections, require_coco_eval
from clipself_d2.evaluation.detections import checked_input, each_image_once, output_field
from clipself_d2.evaluation.ground_truth import GroundTruth

if TYPE_CHECKING:
    from faster_coco_eval import COCO


class ProposalEvaluator(COCOEvaluator):
    """Evaluate how many of the annotated boxes are among the best proposals of their image.

    Average recall is COCO's: the mean over IoU .5, .55, ..., .95 of the share of boxes that have a proposal of their
    own. The best proposal chooses first and classes are ignored. Crowds are no boxes to be found.

    Detectron2's own function matches the closest pairs first and knows no crowds. Its values differ: 48.17 instead of
    48.22 on 80 images of COCO.

    Results: ``proposals`` with ``AR@100`` and ``AR@300``, and, where the metadata has ``novel_classes``,
    ``AR@100_base``, ``AR@100_novel`` and so on: the recall of the boxes of these classes alone. In percent.

    Args:
        dataset_name: a registered data set with annotations.
        limits: how many proposals of an image count.

    Raises:
        InputError: if the data set is unknown or cannot be evaluated on; see `GroundTruth.load`.
    """

    def __init__(self, dataset_name: str, *, limits: Sequence[int] = (100, 300)):
        require_coco_eval()
        # COCOEvaluator's own constructor reads the metadata's json file; see `GroundTruth`.
        self._truth = GroundTruth.load(dataset_name)
        self._logger = logging.getLogger(__name__)
        self._cpu_device = torch.device("cpu")
        self._distributed, self._output_dir = True, None
        self.limits = sorted(limits)
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the proposals of some images.

        Args:
            inputs: samples with ``image_id``.
            outputs: for each Detectron2's ``proposals``: ``proposal_boxes`` in pixels of the image and
                ``objectness_logits``.

        Raises:
            InputError: if there are no proposals, or the image is not in the data set.
        """
        best = [{"proposals": self._best(output_field(output, "proposals"))} for output in outputs]
        super().process([checked_input(self._truth, sample) for sample in inputs], best)

    def _best(self, proposals: Instances) -> Instances:
        boxes, scores = proposals.proposal_boxes.tensor, proposals.objectness_logits
        proposals = proposals[torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)]
        order = proposals.objectness_logits.argsort(descending=True, stable=True)
        return proposals[order[: self.limits[-1]]]

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        detections = []
        for prediction in each_image_once(predictions):
            boxes = prediction["proposals"].proposal_boxes.tensor.double()
            boxes[:, 2:] -= boxes[:, :2]
            scores = prediction["proposals"].objectness_logits.tolist()
            common = {"image_id": prediction["image_id"], "category_id": 0}
            detections += [{**common, "bbox": b, "score": s} for b, s in zip(boxes.tolist(), scores, strict=True)]
        found = self._truth.coco().loadRes(detections)
        novel = self._truth.is_novel
        groups = {"": np.ones_like(novel), **({"_base": ~novel, "_novel": novel} if novel.any() else {})}
        recalls = {suffix: self._average_recalls(found, group) for suffix, group in groups.items()}
        self._results["proposals"] = {
            f"AR@{limit}{suffix}": value
            for i, limit in enumerate(self.limits)
            for suffix, values in recalls.items()
            if (value := float(values[i])) >= 0
        }
        table = create_small_table(self._results["proposals"])
        self._logger.info("%s, proposals:\n%s", self._truth.dataset_name, table)

    def _average_recalls(self, found: COCO, group: np.ndarray) -> np.ndarray:
        """Return the recall of the boxes of a group of classes (K bool) at each limit, in percent; negative if none."""
        truth = self._truth.coco(set(np.flatnonzero(group).tolist()))
        matched = match_detections(truth, found, max_dets=self.limits, areas=["all"], use_classes=False)
        return 100 * matched["recall"][:, 0, 0].mean(axis=0)
