"""Average recall of class-agnostic proposals, on all boxes and on those of base and novel classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from torch import Tensor

from clipself_d2.evaluation.average_precision import judge
from clipself_d2.evaluation.detections import DetectionEvaluator, Results
from clipself_d2.evaluation.ground_truth import GroundTruth, Objects, novel_classes


class ProposalEvaluator(DetectionEvaluator):
    """Judges how many of the annotated boxes are among the best proposals of their image.

    Average recall as COCO's: the mean over IoU .5, .55, ..., .95 of the share of boxes that have a proposal of their
    own, proposals choosing best first; classes are ignored. Crowds are no boxes to be found.

    Results: ``proposals`` with ``AR@100`` and ``AR@300``, and, where the metadata has ``novel_classes``,
    ``AR@100_base``, ``AR@100_novel`` and so on: the recall of the boxes of these classes alone. In percent.
    """

    field = "proposals"

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, *, limits: Sequence[int] = (100, 300)):
        """Prepares for a data set.

        Args:
            dataset_name: a registered data set with annotations.
            output_dir: as of the other evaluators; nothing is written.
            limits: how many proposals of an image are considered.
        """
        super().__init__(dataset_name, output_dir, max_per_image=max(limits))
        self.limits = tuple(limits)

    def judge(self, truth: GroundTruth, found: Objects) -> Results:
        """Average recalls of all groups of classes at all limits."""
        objects = truth.objects[~truth.objects.crowd]
        groups = {"": np.ones(len(truth.names), dtype=bool)}
        if (novel := novel_classes(self.dataset_name)) is not None:
            groups |= {"_base": ~novel, "_novel": novel}
        results = {}
        for limit in self.limits:
            best = found[_rank_in_image(found) < limit]
            for suffix, group in groups.items():
                if (wanted := group[objects.classes]).any():
                    results[f"AR@{limit}{suffix}"] = average_recall(objects[wanted], best)
        return {"proposals": results}

    def _read(self, instances: Instances) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        scores = instances.objectness_logits
        return instances.proposal_boxes.tensor, scores, torch.zeros_like(scores, dtype=torch.long), None


def average_recall(truth: Objects, found: Objects) -> float:
    """Recall of objects at IoU .5, .55, ..., .95 on average, each proposal being given to one object: 0..100."""
    # Proposals near no object find nothing; without them pycocotools is many times faster.
    near = found[_overlaps_half(truth, found)]
    return 100 * float(judge(truth, near, max_dets=(max(1, len(near)),))["recall"].mean())


def _overlaps_half(truth: Objects, found: Objects) -> np.ndarray:
    """N bool: whether a proposal has an IoU of .5 or more with an object; the rows of both are in the images' order."""
    result = np.zeros(len(found), dtype=bool)
    for image in np.intersect1d(truth.images, found.images):
        objects, proposals = (slice(*np.searchsorted(x.images, [image, image + 1])) for x in (truth, found))
        boxes = truth.boxes[objects]
        result[proposals] = (coco_mask.iou(found.boxes[proposals], boxes, [0] * len(boxes)) >= 0.5).any(axis=1)
    return result


def _rank_in_image(found: Objects) -> np.ndarray:
    """N: 0 for the best proposal of its image; the rows of an image are best first."""
    return np.arange(len(found)) - np.searchsorted(found.images, found.images)
