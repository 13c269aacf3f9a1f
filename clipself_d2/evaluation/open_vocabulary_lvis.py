"""OV-LVIS: average precision of masks and boxes over rare (novel), common and frequent classes (paper table 4)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.evaluation import LVISEvaluator
from detectron2.utils.logger import create_small_table

from clipself_d2.errors import InputError, require
from clipself_d2.evaluation.coco_eval import AREAS
from clipself_d2.evaluation.detections import checked_input, checked_instances, results_of
from clipself_d2.evaluation.ground_truth import GroundTruth, metadata
from clipself_d2.evaluation.summary import IOU_50, IOU_75, average_precision, means, per_class, write_json

if TYPE_CHECKING:
    from lvis import LVIS

TASKS = ("segm", "bbox")
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
CLASSES_AT_ONCE = 100
"""Classes that lvis evaluates in one run, which bounds its memory."""


class OpenVocabularyLVISEvaluator(LVISEvaluator):
    """Evaluate masks and boxes of any registered data set by LVIS's protocol, with the lvis package.

    Detections of a class in an image that is not labeled for it (the record's ``neg_category_ids``) do not count, and
    neither do wrong ones where its labels are not exhaustive (``not_exhaustive_category_ids``). A record without these
    fields counts as labeled for all classes, which allows any data set with masks.

    Results: for each task ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``APr``, ``APc`` and ``APf``, in
    percent. A metric without any object (of rare classes in a small subset) is left out; lvis says -100 there.
    ``per_class.json`` has every class.

    A class's frequency is the metadata's ``class_frequency`` (K of "r", "c", "f"), or comes from ``class_image_count``,
    which Detectron2 has for LVIS v1.

    Args:
        dataset_name: a registered data set; with masks, if "segm" is evaluated.
        tasks: "segm", "bbox" or both.
        output_dir: the main process writes ``per_class.json`` here. None: nowhere.
        max_dets: detections per image that count, the best ones.

    Raises:
        InputError: for an unknown task or a data set that cannot be evaluated on, or without the lvis package.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = TASKS,
        output_dir: str | Path | None = None,
        *,
        max_dets: int = 300,
    ):
        require("lvis", "lvis", "evaluation on LVIS")
        # LVISEvaluator's own constructor reads the metadata's json file; see `GroundTruth`.
        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"unknown task {min(unknown)!r}: give some of {', '.join(TASKS)}")
        self._truth = GroundTruth.load(dataset_name)
        if "segm" in tasks and not all("segmentation" in a for a in self._truth.annotations):
            raise InputError(f"data set {dataset_name!r} has annotations without masks: evaluate tasks=('bbox',)")
        self._frequencies = class_frequencies(dataset_name)
        self._tasks, self._max_dets_per_image, self._distributed = tuple(tasks), max_dets, True
        self._logger = logging.getLogger(__name__)
        self._cpu_device = torch.device("cpu")
        self._output_dir = None  # there LVISEvaluator pickles all predictions
        self._folder = None if output_dir is None else Path(output_dir)
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect the detections of some images; see `checked_instances` for the arguments and errors."""
        pairs = list(zip(inputs, outputs, strict=True))
        found = [{"instances": checked_instances(self._truth, *pair, masks="segm" in self._tasks)} for pair in pairs]
        super().process([checked_input(self._truth, sample) for sample in inputs], found)

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        frequency = np.array(self._frequencies)
        detections = results_of(predictions)
        table = {}
        for task in self._tasks:
            ap = average_precision(self._precision(detections, task))
            table[task] = per_class(self._truth, ap[..., 0], [FREQUENCIES[letter] for letter in frequency])
            self._results[task] = results = means(
                {
                    "AP": ap[..., 0],
                    "AP50": ap[IOU_50, :, 0],
                    "AP75": ap[IOU_75, :, 0],
                    **{f"AP{area[0]}": ap[..., i] for i, area in enumerate(AREAS) if area != "all"},
                    **{f"AP{letter}": ap[:, frequency == letter, 0] for letter in FREQUENCIES},
                }
            )
            self._logger.info("%s, %s:\n%s", self._truth.dataset_name, task, create_small_table(results))
        write_json(self._folder, "per_class.json", table)

    def _precision(self, detections: list[dict[str, Any]], task: str) -> np.ndarray:
        """Run lvis, a few classes at a time: T x R x K x A.

        lvis itself and not Detectron2's call of it, which returns no numbers of single classes. lvis keeps objects for
        each pair of an image and a class. Measured with 1,203 classes and 300 boxes per image, all classes at once take
        1.7 MB per image and 100 at once take 0.9 MB; LVIS v1 val has 19,809 images.
        """
        from lvis import LVISEval, LVISResults  # slow: imports matplotlib and cv2

        if task == "segm" and "segmentation" in detections[0]:
            # Without a box, the area of a detection is that of its mask.
            detections = [{key: value for key, value in row.items() if key != "bbox"} for row in detections]
        precisions = []
        with _usable_lvis():
            truth = self._lvis()
            found = LVISResults(truth, detections, self._max_dets_per_image)
            for start in range(0, len(self._truth.classes), CLASSES_AT_ONCE):
                lvis_eval = LVISEval(truth, found, task)
                lvis_eval.params.cat_ids = lvis_eval.params.cat_ids[start : start + CLASSES_AT_ONCE]
                lvis_eval.evaluate()
                lvis_eval.accumulate()
                precisions.append(lvis_eval.eval["precision"])
        return np.concatenate(precisions, axis=2)

    def _lvis(self) -> LVIS:
        """Build lvis's index of the ground truth."""
        from lvis import LVIS

        known, classes = metadata(self._truth.dataset_name), self._truth.classes

        def indices(category_ids: Sequence[int]) -> set[int]:
            return {_class_index(known, category_id) for category_id in category_ids}

        images = [
            {
                **image,
                "neg_category_ids": indices(image["neg_category_ids"])
                if "neg_category_ids" in image
                else range(len(classes)),
                "not_exhaustive_category_ids": indices(image.get("not_exhaustive_category_ids", ())),
            }
            for image in self._truth.images
        ]
        api = LVIS.__new__(LVIS)  # its constructor reads a file
        api.logger = logging.getLogger("lvis")
        categories = [{"id": k, "frequency": letter} for k, letter in enumerate(self._frequencies)]
        api.dataset = {"images": images, "annotations": self._truth.annotations, "categories": categories}
        api._create_index()
        return api


def class_frequencies(dataset_name: str) -> list[str]:
    """Tell how often each class of a data set was seen in training: "r" (in up to 10 images), "c" (up to 100) or "f".

    Raises:
        InputError: if the metadata does not tell.
    """
    known = metadata(dataset_name)
    num_classes = len(known.thing_classes)
    if "class_frequency" in known.as_dict():
        letters = list(known.class_frequency)
    else:
        counts = {_class_index(known, c["id"]): c["image_count"] for c in known.get("class_image_count", ())}
        letters = [
            "r" if count <= 10 else "c" if count <= 100 else "f"
            for count in (counts[k] for k in range(num_classes) if k in counts)
        ]
    if len(letters) != num_classes or not set(letters) <= set(FREQUENCIES):
        raise InputError(
            f"data set {dataset_name!r}: the frequencies of its {num_classes} classes are not known: set "
            "class_frequency ('r', 'c' or 'f' for each) in its metadata"
        )
    return letters


def _class_index(known: object, category_id: int) -> int:
    """Find the class of an id of the json file; LVIS's ids are 1..K. An unknown id gives -1."""
    mapping = getattr(known, "thing_dataset_id_to_contiguous_id", None)
    return category_id - 1 if mapping is None else mapping.get(category_id, -1)


class _Numpy(ModuleType):
    """NumPy with the `np.float` that lvis 0.5.3 names and NumPy 1.24 dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextlib.contextmanager
def _usable_lvis() -> Iterator[None]:
    """Show `_Numpy` to lvis's own module alone, and silence its logger, which reports every step."""
    import lvis.eval

    lvis_logger = logging.getLogger("lvis")
    level = lvis_logger.level
    lvis_logger.setLevel(logging.ERROR)
    lvis.eval.np = _Numpy("numpy")
    try:
        yield
    finally:
        lvis.eval.np = np
        lvis_logger.setLevel(level)
