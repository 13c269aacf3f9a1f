"""OV-LVIS: average precision of masks and boxes over rare (novel), common and frequent classes (paper table 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipself_d2.errors import InputError
from clipself_d2.evaluation.average_precision import AREAS, IOU_50, IOU_75, mean_over_recalls, means, per_class
from clipself_d2.evaluation.detections import DetectionEvaluator, Results
from clipself_d2.evaluation.ground_truth import GroundTruth, Objects, metadata

TASKS = ("segm", "bbox")
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class OpenVocabularyLVISEvaluator(DetectionEvaluator):
    """Judges masks and boxes by LVIS's protocol: the lvis package, 300 detections of an image.

    Detections of a class in an image that is not labelled for it (the record's ``neg_category_ids``) do not count, and
    nor do wrong ones where its labels are not exhaustive (``not_exhaustive_category_ids``). A record without these
    fields counts as labelled for all classes, so that any data set with masks can be judged.

    Results: for each task ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``APr``, ``APc`` and ``APf``, in
    percent. What has no ground truth (rare classes in a small subset) is left out; lvis says -100 there. With an
    output folder ``per_class.json`` has every class.

    A class's frequency is the metadata's ``class_frequency`` (K of "r", "c", "f"), or comes from ``class_image_count``,
    which Detectron2 keeps for LVIS v1.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = TASKS,
        output_dir: str | Path | None = None,
        *,
        max_dets: int = 300,
    ):
        """Prepares for a data set.

        Args:
            dataset_name: a data set with masks, if "segm" is judged.
            tasks: "segm", "bbox" or both.
            output_dir: where rank 0 writes ``per_class.json``. None: nowhere.
            max_dets: only so many detections of an image, the best, count.

        Raises:
            InputError: for an unknown task.
        """
        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"unknown task {min(unknown)!r}: give some of {', '.join(TASKS)}")
        super().__init__(dataset_name, output_dir, masks="segm" in tasks, max_per_image=max_dets)
        self.tasks = tuple(tasks)

    def judge(self, truth: GroundTruth, found: Objects) -> Results:
        """Average precisions of the tasks, each over all classes, sizes and frequencies."""
        frequency = np.array(class_frequencies(self.dataset_name))
        labels = _Labels.of(truth, self.dataset_name)
        results: Results = {}
        table = {}
        for task in self.tasks:
            ap = _average_precision(truth, found, labels, task)
            table[task] = per_class(truth, ap[..., 0], [FREQUENCIES[f] for f in frequency])
            results[task] = means(
                {
                    "AP": ap[..., 0],
                    "AP50": ap[:, IOU_50, 0],
                    "AP75": ap[:, IOU_75, 0],
                    **{f"AP{area[0]}": ap[..., i] for i, area in enumerate(AREAS) if area != "all"},
                    **{f"AP{letter}": ap[frequency == letter, :, 0] for letter in FREQUENCIES},
                }
            )
        self.write("per_class.json", table)
        return results


def class_frequencies(dataset_name: str) -> list[str]:
    """How often each class of a data set was seen in training: "r" (in up to 10 images), "c" (up to 100) or "f".

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


@dataclass
class _Labels:
    """Which images are labelled for a class."""

    whole: list[int] = field(default_factory=list)
    """Images that are labelled for all classes."""
    negative: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Images that are known not to show a class."""
    not_exhaustive: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Images in which only some of its objects are labelled."""

    @classmethod
    def of(cls, truth: GroundTruth, dataset_name: str) -> _Labels:
        labels, known = cls(), metadata(dataset_name)
        for i, image in enumerate(truth.images):
            if "neg_category_ids" not in image:
                labels.whole.append(i)
            for category in image.get("neg_category_ids", ()):
                labels.negative[_class_index(known, category)].append(i)
            for category in image.get("not_exhaustive_category_ids", ()):
                labels.not_exhaustive[_class_index(known, category)].add(i)
        return labels


def _class_index(known: object, category_id: int) -> int:
    """Detectron2's class of an id of the json file; LVIS's ids are 1..K."""
    mapping = getattr(known, "thing_dataset_id_to_contiguous_id", None)
    return category_id - 1 if mapping is None else mapping.get(category_id, -1)


def _average_precision(truth: GroundTruth, found: Objects, labels: _Labels, task: str) -> np.ndarray:
    """K x T x A percentages; NaN where there is no object."""
    from clipself_d2.evaluation.lvis_matching import judge  # slow to import

    objects = truth.objects
    if task == "segm":
        if objects.masks is None:
            raise InputError("the data set has annotations without masks: evaluate tasks=('bbox',)")
        found = found.with_mask_areas()
    result = np.full((len(truth.names), 10, len(AREAS)), np.nan)
    pairs = zip(objects.by_class(len(truth.names)), found.by_class(len(truth.names)), strict=True)
    for k, (annotated, detected) in enumerate(pairs):
        if not len(annotated):
            continue
        detected = detected[np.isin(detected.images, [*annotated.images, *labels.negative[k], *labels.whole])]
        images = [
            {"id": i, **{side: truth.images[i][side] for side in ("height", "width")}}
            for i in np.union1d(annotated.images, detected.images).tolist()
        ]
        result[k] = mean_over_recalls(judge(annotated, detected, images, labels.not_exhaustive[k], task))
    return result
