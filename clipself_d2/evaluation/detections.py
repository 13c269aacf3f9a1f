"""What the evaluators of detections share: collecting on all ranks, judging on one, the same answer on all."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.evaluation.ground_truth import GroundTruth, Objects, class_names, run_lengths

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """The detections of one image, compact enough to send to another rank."""

    image_id: int | str
    boxes: np.ndarray  # N x 4 float32: x0, y0, x1, y1
    scores: np.ndarray  # N float32
    classes: np.ndarray  # N int64
    masks: list[bytes] | None  # run lengths
    mask_size: tuple[int, int]  # height, width


class DetectionEvaluator(DatasetEvaluator):
    """Collects detections; a subclass judges them by the ground truth.

    Detections whose box or score is not finite are dropped. An image that was seen twice counts once. Images of the
    data set without any output count as images in which nothing was detected.
    """

    field = "instances"
    """Which part of the outputs is judged."""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        masks: bool = False,
        max_per_image: int | None = None,
    ):
        """Prepares for a data set.

        Args:
            dataset_name: a registered data set with annotations.
            output_dir: rank 0 writes the details here. None: nowhere.
            masks: whether masks are judged.
            max_per_image: only so many detections of an image, the best, are kept. None: all.
        """
        self.dataset_name = dataset_name
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._with_masks = masks
        self._max_per_image = max_per_image
        self.reset()

    def reset(self) -> None:
        """Forgets all detections, and the ground truth."""
        self._found: list[Found] = []
        self._truth: GroundTruth | None = None

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Takes in the detections of some images.

        Args:
            inputs: samples with ``image_id``, ``height`` and ``width``.
            outputs: for each, Detectron2's answer in pixels of height x width.

        Raises:
            InputError: if the outputs lack what is judged, a detection is of a class that the data set has not, or a
                mask is of another size; if the data set has no annotations.
        """
        if comm.is_main_process():
            self._load_truth()  # a data set without annotations is said at once, not after hours
        num_classes = len(class_names(self.dataset_name))
        for sample, output in zip(inputs, outputs, strict=True):
            if self.field not in output:
                raise InputError(f"{type(self).__name__} judges {self.field!r}, but the model gives {sorted(output)}")
            boxes, scores, classes, masks = self._read(output[self.field])
            boxes, scores, classes = boxes.float().cpu(), scores.float().cpu(), classes.cpu()
            if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
                wrong = int(classes.max()) if int(classes.max()) >= num_classes else int(classes.min())
                raise InputError(
                    f"image {sample['image_id']}: a detection is of class {wrong}, but data set {self.dataset_name!r} "
                    f"has {num_classes} classes: detect with the vocabulary of its thing_classes"
                )
            finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
            keep = scores.masked_fill(~finite, -torch.inf).argsort(descending=True, stable=True)[: self._max_per_image]
            keep = keep[finite[keep]]  # best first
            size = (sample["height"], sample["width"])
            if masks is not None and masks.shape[-2:] != size:
                raise InputError(
                    f"image {sample['image_id']}: its masks are {tuple(masks.shape[-2:])}, the photograph {size}: "
                    "paste them into the whole photograph"
                )
            self._found.append(
                Found(
                    image_id=sample["image_id"],
                    boxes=boxes[keep].numpy(),
                    scores=scores[keep].numpy(),
                    classes=classes[keep].numpy(),
                    masks=None if masks is None else _counts(masks[keep.to(masks.device)]),
                    mask_size=size,
                )
            )

    def evaluate(self) -> Results:
        """Judges the detections of all ranks.

        Returns:
            The same on all ranks: ``{task: {metric: percent}}``. A metric of classes or sizes that have no ground truth
            is left out.

        Raises:
            InputError: on all ranks, if the data set cannot be used, or an image is none of its.
        """
        gathered = comm.gather(self._found)
        return from_main(lambda: self._judge_all(chain.from_iterable(gathered)))

    @abstractmethod
    def judge(self, truth: GroundTruth, found: Objects) -> Results:
        """Judges the detections of the whole data set; on rank 0."""

    def write(self, name: str, content: Any) -> None:
        """Writes a json file to the output folder, if there is one."""
        if self.output_dir is not None:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            (self.output_dir / name).write_text(json.dumps(content, indent=2) + "\n")

    def _read(self, instances: Instances) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Boxes, scores, classes and, if they are judged, masks of an image."""
        if self._with_masks and not instances.has("pred_masks"):
            raise InputError(f"data set {self.dataset_name!r}: masks are to be judged, but the model gives none")
        masks = instances.pred_masks if self._with_masks else None
        return instances.pred_boxes.tensor, instances.scores, instances.pred_classes, masks

    def _load_truth(self) -> GroundTruth:
        if self._truth is None:
            self._truth = GroundTruth.load(self.dataset_name)
        return self._truth

    def _judge_all(self, gathered: Iterable[Found]) -> Results:
        truth = self._load_truth()
        results = self.judge(truth, self._table(truth, gathered))
        for task, metrics in results.items():
            logger.info("%s, %s:\n%s", self.dataset_name, task, create_small_table(metrics))
        return results

    def _table(self, truth: GroundTruth, gathered: Iterable[Found]) -> Objects:
        index = {image["image_id"]: i for i, image in enumerate(truth.images)}
        images: dict[int, Found] = {}
        for found in gathered:
            if found.image_id not in index:
                raise InputError(f"image {found.image_id} is not in data set {self.dataset_name!r}: evaluate the same")
            images.setdefault(index[found.image_id], found)
        if missing := len(index) - len(images):
            logger.warning("%d of %d images of %s were not given", missing, len(index), self.dataset_name)
        return objects_of(images, masks=self._with_masks)


def objects_of(images: Mapping[int, Found], *, masks: bool = False) -> Objects:
    """Detections of images, by the images' indices, as one table in the images' order."""
    ordered = [(i, images[i]) for i in sorted(images)]
    boxes = np.concatenate([np.zeros((0, 4)), *(found.boxes for _, found in ordered)])
    boxes[:, 2:] -= boxes[:, :2]
    column = np.empty(len(boxes), dtype=object)
    if masks:
        runs = ((found.mask_size, counts) for _, found in ordered for counts in found.masks or ())
        for row, (size, counts) in enumerate(runs):
            column[row] = {"size": list(size), "counts": counts}
    return Objects(
        images=np.repeat(*np.array([(i, len(found.scores)) for i, found in ordered], dtype=np.int64).reshape(-1, 2).T),
        classes=np.concatenate([np.zeros(0, dtype=np.int64), *(found.classes for _, found in ordered)]),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        scores=np.concatenate([np.zeros(0), *(found.scores for _, found in ordered)]),
        crowd=np.zeros(len(boxes), dtype=bool),
        masks=column if masks else None,
    )


def from_main(compute: Callable[[], T]) -> T:
    """Computes on rank 0 and answers on all ranks, be it with its InputError."""
    answer: Any = None
    if comm.is_main_process():
        try:
            answer = compute()
        except InputError as error:
            answer = error
    answer = comm.all_gather(answer)[0]
    if isinstance(answer, InputError):
        raise answer
    return answer


def _counts(masks: Tensor) -> list[bytes]:
    """Run lengths of R x H x W masks, without their size."""
    return [rle["counts"] for rle in run_lengths(masks)]
