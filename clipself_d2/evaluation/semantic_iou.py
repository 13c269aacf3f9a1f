"""IoU and accuracy of semantic labels, of every class (paper table 6)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)


class SemanticEvaluator(SemSegEvaluator):
    """``mIoU`` and ``mACC`` by class; ``fwIoU`` and ``pACC``, which are over pixels, as single numbers."""

    def __init__(self, dataset_name: str):
        # SemSegEvaluator's own constructor pairs files of images and labels, but the samples hold labels.
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name, self._num_classes = dataset_name, len(metadata.stuff_classes)
        self._class_names = range(self._num_classes)
        self._ignore_label = metadata.get("ignore_label", 255)
        self._distributed, self._output_dir, self._compute_boundary_iou = True, None, False
        self._logger = logging.Logger(__name__, logging.WARNING)  # SemSegEvaluator logs a number of every class
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count the pixels of ``labels``, or of ``sem_seg``'s best classes, by predicted and labeled class."""
        num = self._num_classes
        for sample, output in zip(inputs, outputs, strict=True):
            if "sem_seg" in output and len(output["sem_seg"]) != num:
                raise InputError(
                    f"image {sample['image_id']}: sem_seg has {len(output['sem_seg'])} classes, data set "
                    f"{self._dataset_name!r} {num}: segment with its vocabulary"
                )
            found = output["labels"].long() if "labels" in output else output["sem_seg"].argmax(dim=0)
            labels = sample["sem_seg"].to(found.device)
            ignored = labels == self._ignore_label
            wrong = labels[~ignored & ((labels < 0) | (labels >= num))]
            if len(wrong):
                raise InputError(
                    f"{sample.get('sem_seg_file_name', sample['file_name'])}: is labeled {int(wrong[0])}, data set "
                    f"{self._dataset_name!r} has {num} classes and ignores {self._ignore_label}: use its own labels"
                )
            pairs = found * (num + 1) + labels.masked_fill(ignored, num)
            counts = pairs.flatten().bincount(minlength=(num + 1) ** 2)
            self._conf_matrix += counts.view(num + 1, num + 1).cpu().numpy()

    def evaluate(self) -> dict[str, Any]:
        """Sum the counts of all ranks."""
        results = super().evaluate()
        if not results:
            return {}
        if empty := np.flatnonzero(self._conf_matrix[:-1, :-1].sum(axis=0) == 0).tolist():
            names = MetadataCatalog.get(self._dataset_name).stuff_classes
            some = ", ".join(names[k] for k in empty[:5]) + ", ..." * (len(empty) > 5)
            logger.warning(
                "%s: %d of %d classes label no pixel of these images (%s); %d is ignored (ignore_label)",
                *(self._dataset_name, len(empty), len(names), some, self._ignore_label),
            )
        metrics = results["sem_seg"]
        columns = {"mIoU": "IoU", "mACC": "ACC"}
        table = {name: np.array([metrics[f"{key}-{k}"] for k in self._class_names]) for name, key in columns.items()}
        return {**table, "fwIoU": float(metrics["fwIoU"]), "pACC": float(metrics["pACC"])}
