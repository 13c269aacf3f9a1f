"""Panoptic quality, mask AP and mIoU of one model in one pass, for seen and novel classes apart (paper table 6).

The protocol is that of Detectron2's evaluators and so of ODISE and FC-CLIP: panopticapi's PQ, COCOeval's AP by the
instance annotations, and `SemSegEvaluator`'s confusion matrix.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.evaluation.mask_ap import MaskAPEvaluator
from clipself_d2.evaluation.panoptic_quality import PanopticQualityEvaluator
from clipself_d2.evaluation.semantic_iou import SemanticEvaluator
from clipself_d2.evaluation.summary import means, write_json
from clipself_d2.regions import PackedMasks

logger = logging.getLogger(__name__)

TASKS: dict[str, tuple[str, type[DatasetEvaluator]]] = {
    "panoptic_seg": ("panoptic", PanopticQualityEvaluator),
    "instances": ("segm", MaskAPEvaluator),
    "sem_seg": ("sem_seg", SemanticEvaluator),
    "labels": ("sem_seg", SemanticEvaluator),
}
"""The task of each field of a model's output, and its evaluator.

Each evaluator takes what `OpenVocabularyPanopticEvaluator` has checked. On the main process its ``evaluate`` returns
``{metric: K array in percent, NaN for classes that do not occur}``.
"""


class OpenVocabularyPanopticEvaluator(DatasetEvaluator):
    """Evaluate Detectron2's panoptic outputs: each task whose field is in the model's outputs.

    - ``panoptic`` of ``panoptic_seg``: ``PQ``, ``SQ``, ``RQ``;
    - ``segm`` of ``instances``: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` of masks of things;
    - ``sem_seg`` of ``sem_seg`` or ``labels``: ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``.

    ``_th`` and ``_st`` stand for things and stuff, ``_seen`` and ``_novel`` for the classes that were trained on and
    the others (where there are any), ``_th_novel`` and so on for both. All are percentages, averaged over the classes
    that occur. A metric of none is absent.

    Args:
        dataset_name: a data set of `register_panoptic` or `register_semantic`, read by a `PanopticMapper`.
        output_dir: the main process writes the numbers of every class to ``panoptic_classes.json`` here. None: nowhere.
        novel_classes: names of the classes that were not trained on. None: the metadata's.

    Raises:
        InputError: if the data set has no classes, or lacks a novel one.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, *, novel_classes: Sequence[str] | None = None
    ):
        metadata = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self._folder = None if output_dir is None else Path(output_dir)
        self._names = list(metadata.get("stuff_classes", ()))
        if not self._names:
            raise InputError(f"data set {dataset_name!r} is not registered with its stuff_classes: check the name")
        things = metadata.get("thing_dataset_id_to_contiguous_id", {})
        novel = set(metadata.get("novel_classes", ()) if novel_classes is None else novel_classes)
        if unknown := sorted(novel - set(self._names)):
            raise InputError(f"novel class {unknown[0]!r} is no class of data set {dataset_name!r}: fix the list")
        isthing = np.isin(np.arange(len(self._names)), list(things.values()))
        self._groups = class_groups(isthing, np.isin(self._names, list(novel)))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._evaluators: dict[str, DatasetEvaluator] = {}  # by field

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the segments of some images.

        Args:
            inputs: samples of a `PanopticMapper`.
            outputs: for each any of ``panoptic_seg`` (H x W int of segment ids, 0 for none, and a list of ``id``,
                ``category_id``, 0..K-1, of each), ``instances`` (``pred_masks``: N x H x W, a tensor or `PackedMasks`,
                ``pred_classes``: 0..K-1, ``scores``) and ``sem_seg`` (K x H x W scores) or ``labels`` (H x W, 0..K-1),
                in pixels of the image.

        Raises:
            InputError: if an output is of another size than the image or has a class beyond K, or the labels do; if the
                data set lacks the labels of a task.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" in output:
                ids, segments = output["panoptic_seg"]
                self._check(sample, ids, [s["category_id"] for s in segments])
            if "instances" in output:
                self._check(sample, output["instances"].pred_masks, output["instances"].pred_classes.tolist())
            if "sem_seg" in output:
                self._check(sample, output["sem_seg"], [])
            if "labels" in output:
                self._check(sample, output["labels"], [int(x) for x in output["labels"].aminmax()])
            for field in [field for field in TASKS if field in output]:
                self._evaluator(field).process([sample], [output])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Average over the images of all ranks.

        Returns:
            ``{"panoptic": {"PQ": .., ..}, "segm": {..}, "sem_seg": {..}}`` on the main process, empty on the others.

        Raises:
            InputError: if there was nothing to evaluate.
        """
        fields = {field for fields in comm.all_gather(list(self._evaluators)) for field in fields}
        if not fields:
            raise InputError(
                f"data set {self.dataset_name!r}: there was no output to evaluate: check the model and the data"
            )
        tables = {task: self._evaluator(field).evaluate() for field, (task, _) in TASKS.items() if field in fields}
        if not comm.is_main_process():
            return {}
        # Instances are things, so their metrics need no suffix that says so.
        things = {suffix.replace("_th", ""): group for suffix, group in self._groups.items() if "_th" in suffix}
        results: dict[str, dict[str, float]] = {}
        for task, table in tables.items():
            groups = things if task == "segm" else self._groups
            by_class = {metric: values for metric, values in table.items() if isinstance(values, np.ndarray)}
            split = {m + suffix: values[group] for suffix, group in groups.items() for m, values in by_class.items()}
            overall = {metric: value for metric, value in table.items() if metric not in by_class}
            results[task] = means(split) | overall
            logger.info("%s, %s:\n%s", self.dataset_name, task, create_small_table(results[task]))
        self._write(tables)
        return results

    def _evaluator(self, field: str) -> DatasetEvaluator:
        if field not in self._evaluators:
            _, evaluator_class = TASKS[field]
            evaluator = self._evaluators[field] = evaluator_class(self.dataset_name)
            evaluator.reset()
        return self._evaluators[field]

    def _check(self, sample: Mapping[str, Any], pixels: Tensor | PackedMasks, classes: Sequence[int]) -> None:
        size = (sample["height"], sample["width"])
        if pixels.shape[-2:] != size:
            raise InputError(
                f"image {sample['image_id']}: its segments are {tuple(pixels.shape[-2:])}, the image {size}: resize "
                "them to the image"
            )
        if classes and not 0 <= min(classes) <= max(classes) < len(self._names):
            wrong = max(classes) if max(classes) >= len(self._names) else min(classes)
            raise InputError(
                f"image {sample['image_id']}: a segment is of class {wrong}, data set {self.dataset_name!r} has "
                f"{len(self._names)} classes: segment with its vocabulary"
            )

    def _write(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        rows: dict[str, dict[str, float]] = {name: {} for name in self._names}
        for metric, values in itertools.chain.from_iterable(table.items() for table in tables.values()):
            if isinstance(values, np.ndarray):
                for name, value in zip(self._names, values.tolist(), strict=True):
                    if value == value:
                        rows[name][metric] = value
        write_json(self._folder, "panoptic_classes.json", rows)


def class_groups(isthing: np.ndarray, novel: np.ndarray) -> dict[str, np.ndarray]:
    """List the classes that each suffix of a metric stands for, K bool; a suffix without any class is left out.

    Args:
        isthing: K bool.
        novel: K bool; without novel classes there are no suffixes for seen and novel ones.
    """
    kinds = {"": np.ones_like(isthing), **({"_th": isthing, "_st": ~isthing} if isthing.any() else {})}
    parts = {"": np.ones_like(isthing), **({"_seen": ~novel, "_novel": novel} if novel.any() else {})}
    groups = {kind + part: a & b for kind, a in kinds.items() for part, b in parts.items()}
    return {suffix: group for suffix, group in groups.items() if group.any()}
