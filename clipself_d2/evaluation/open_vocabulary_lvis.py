"""OV-LVIS: average precision of masks and boxes over rare (novel), common and frequent classes (paper table 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipself_d2.data.catalog import metadata_of
from clipself_d2.errors import InputError
from clipself_d2.evaluation.coco_eval import match_detections
from clipself_d2.evaluation.ground_truth import GroundTruth
from clipself_d2.evaluation.instances import Detections, InstanceEvaluator, only
from clipself_d2.evaluation.summary import by_threshold_and_area, means, per_class

TASKS = ("segm", "bbox")
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}

# Pairs of an image and a class that are matched at once, in 0.3 GiB; LVIS v1 val has 24 million.
_PAIRS_AT_ONCE = 200_000


class OpenVocabularyLVISEvaluator(InstanceEvaluator):
    """Evaluate masks and boxes of any registered data set by LVIS's protocol.

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
        InputError: for an unknown task or a data set that cannot be evaluated on.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = TASKS,
        output_dir: str | Path | None = None,
        *,
        max_dets: int = 300,
    ):
        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"unknown task {min(unknown)!r}: give some of {', '.join(TASKS)}")
        super().__init__(_federated(GroundTruth.load(dataset_name)), tasks, output_dir)
        self._frequencies = class_frequencies(dataset_name)
        self._max_dets = max_dets

    def match(self, predictions: list[dict[str, Any]], task: str) -> np.ndarray:
        """Match by LVIS's rules, a few classes at a time to bound memory."""
        present = {(a["image_id"], a["category_id"]) for a in self._truth.annotations}
        of_class: dict[int, Detections] = defaultdict(list)
        for prediction in predictions:
            image = self._truth.images[prediction["image_id"]]
            for detection in sorted(prediction["instances"], key=lambda d: -d["score"])[: self._max_dets]:
                k = detection["category_id"]
                if k in image["neg_category_ids"] or (image["id"], k) in present:
                    of_class[k].append(detection)
        step = max(1, _PAIRS_AT_ONCE // len(self._truth.images))
        precisions = []
        for start in range(0, len(self._truth.classes), step):
            classes = range(start, min(start + step, len(self._truth.classes)))
            truth = self._truth.coco(classes)
            for k in classes:
                truth.cats[k]["frequency"] = self._frequencies[k]
            found = truth.loadRes(only(task, [d for k in classes for d in of_class[k]]))
            matched = match_detections(truth, found, task, max_dets=[self._max_dets], class_ids=classes, federated=True)
            precisions.append(matched["precision"])
        return np.concatenate(precisions, axis=2)

    def summarize(self, ap: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Average over all classes, over areas, and over the classes of each frequency."""
        ap, frequency = ap[..., 0], np.array(self._frequencies)
        of_frequencies = {f"AP{letter}": ap[:, frequency == letter, 0] for letter in FREQUENCIES}
        table = per_class(self._truth, ap[..., 0], [FREQUENCIES[letter] for letter in frequency])
        return means(by_threshold_and_area(ap) | of_frequencies), table


def _federated(truth: GroundTruth) -> GroundTruth:
    """Number an image's classes as the data set does, and give LVIS, which has no crowds, areas that it ignores."""
    known = metadata_of(truth.dataset_name, "thing_classes")

    def labeled(image: dict[str, Any], key: str, default: Any) -> Any:
        return {_class_index(known, id_) for id_ in image[key]} if key in image else default

    images = [
        {
            **image,
            "neg_category_ids": labeled(image, "neg_category_ids", range(len(truth.classes))),
            "not_exhaustive_category_ids": labeled(image, "not_exhaustive_category_ids", ()),
        }
        for image in truth.images
    ]
    annotations = [{**a, "iscrowd": 0, "area": -1.0} if a["iscrowd"] else a for a in truth.annotations]
    return replace(truth, images=images, annotations=annotations)


def class_frequencies(dataset_name: str) -> list[str]:
    """Tell how often each class of a data set was seen in training: "r" (in up to 10 images), "c" (up to 100) or "f".

    Raises:
        InputError: if the metadata does not tell.
    """
    known = metadata_of(dataset_name, "thing_classes")
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
