"""Panoptic quality, mask AP and mIoU of one model in one pass, for seen and novel classes apart (paper table 6).

The protocol is that of Detectron2's evaluators and so of ODISE, FC-CLIP and their kin: panopticapi's PQ, COCOeval's AP
by the instance annotations, and the confusion matrix of `SemSegEvaluator`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import logging
import operator
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.evaluation.detections import Results, from_main
from clipself_d2.evaluation.ground_truth import run_lengths
from clipself_d2.evaluation.panoptic_metrics import (
    class_groups,
    group_means,
    mask_average_precision,
    panoptic_quality,
    pixel_accuracy,
    semantic_accuracy,
)

if TYPE_CHECKING:
    from panopticapi.evaluation import PQStat

logger = logging.getLogger(__name__)


class OpenVocabularyPanopticEvaluator(DatasetEvaluator):
    """Judges Detectron2's panoptic outputs. Each of its tasks is judged if the model's outputs have its field.

    - ``panoptic`` of ``panoptic_seg``: ``PQ``, ``SQ``, ``RQ``;
    - ``segm`` of ``instances``: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` of masks of things;
    - ``sem_seg`` of ``sem_seg``: ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``.

    ``_th`` and ``_st`` are of things and stuff, ``_seen`` and ``_novel`` of the classes that were trained on and the
    others (where there are any), ``_th_novel`` and so on of both. All are percentages, means over the classes that
    occur; a metric of none is absent.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, *, novel_classes: Sequence[str] | None = None
    ):
        """Prepares for a data set.

        Args:
            dataset_name: a data set of `register_panoptic` or `register_semantic`, read by a `PanopticMapper`.
            output_dir: rank 0 writes the numbers of every class to ``panoptic_classes.json`` here. None: nowhere.
            novel_classes: names of the classes that were not trained on. None: the metadata's.

        Raises:
            InputError: if the data set has no classes, or lacks a novel one.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._names = list(metadata.get("stuff_classes", ()))
        if not self._names:
            raise InputError(f"data set {dataset_name!r} is not registered with its stuff_classes: check the name")
        things = metadata.get("thing_dataset_id_to_contiguous_id", {})
        novel = set(metadata.get("novel_classes", ()) if novel_classes is None else novel_classes)
        if unknown := sorted(novel - set(self._names)):
            raise InputError(f"novel class {unknown[0]!r} is no class of data set {dataset_name!r}: mend the list")
        self._isthing = np.isin(np.arange(len(self._names)), list(things.values()))
        self._groups = class_groups(self._isthing, np.isin(self._names, list(novel)))
        self._thing_ids = {number: id_ for id_, number in things.items()}
        self._ignore_label = metadata.get("ignore_label", 255)
        self._instances_json = metadata.get("json_file")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        # Each is None until an output has its field.
        self._pq: PQStat | None = None
        self._found: dict[Any, list[dict[str, Any]]] | None = None
        self._confusion: Tensor | None = None

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Judges the segments of some images.

        Args:
            inputs: samples of a `PanopticMapper`.
            outputs: for each any of ``panoptic_seg`` (H x W int of segment ids, 0 for none, and a list of ``id``,
                ``category_id``, 0..K-1, of each), ``instances`` (``pred_masks``: N x H x W, ``pred_classes``: 0..K-1,
                ``scores``) and ``sem_seg`` (K x H x W scores), in pixels of the photograph.

        Raises:
            InputError: if an output is of another size than the photograph or has a class beyond K, or the labels do.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" in output:
                self._process_panoptic(sample, *output["panoptic_seg"])
            if "instances" in output:
                self._process_instances(sample, output["instances"])
            if "sem_seg" in output:
                self._process_semantic(sample, output["sem_seg"])

    def _process_panoptic(self, sample: Mapping[str, Any], ids: Tensor, segments: list[dict[str, Any]]) -> None:
        if "pan_seg_file_name" not in sample:
            raise InputError(f"data set {self.dataset_name!r} has no panoptic labels: judge sem_seg only")
        self._check(sample, ids, [s["category_id"] for s in segments])
        truth = [{"iscrowd": 0, **s} for s in sample["segments_info"]]
        for segment, mask in zip(truth, sample["masks"], strict=True):
            segment.setdefault("area", int(mask.sum()))
        answer = [{"id": int(s["id"]), "category_id": int(s["category_id"])} for s in segments]
        try:
            stat = _compare(sample, truth, ids.cpu().numpy().astype(np.uint32), answer, range(len(self._names)))
        except KeyError as error:  # its segment ids and its list of segments differ
            raise InputError(f"image {sample['image_id']}: the prediction contradicts itself: {error}") from error
        self._pq = stat if self._pq is None else operator.iadd(self._pq, stat)

    def _process_instances(self, sample: Mapping[str, Any], instances: Instances) -> None:
        if self._instances_json is None:
            raise InputError(f"data set {self.dataset_name!r} has no instance annotations: judge no instances")
        if self._found is None:
            if not Path(self._instances_json).is_file():  # said now, not after hours of inference
                raise InputError(f"{self._instances_json}: is missing: prepare the data set as datasets/README.md says")
            self._found = {}
        classes, masks = instances.pred_classes.tolist(), instances.pred_masks
        self._check(sample, masks, classes)
        encoded = run_lengths(masks) if classes else []
        self._found[sample["image_id"]] = [
            {"category_id": self._thing_ids[k], "segmentation": rle, "score": score, "iscrowd": 0}
            for k, rle, score in zip(classes, encoded, instances.scores.tolist(), strict=True)
            if k in self._thing_ids
        ]

    def _process_semantic(self, sample: Mapping[str, Any], scores: Tensor) -> None:
        labels = sample["sem_seg"].to(scores.device)
        num_classes = len(self._names)
        if len(scores) != num_classes:
            raise InputError(
                f"image {sample['image_id']}: sem_seg has {len(scores)} classes, data set {self.dataset_name!r} "
                f"{num_classes}: segment with its vocabulary"
            )
        self._check(sample, scores, [])
        judged = labels != self._ignore_label
        wrong = labels[judged & ((labels < 0) | (labels >= num_classes))]
        if len(wrong):
            raise InputError(
                f"{sample.get('sem_seg_file_name', sample['file_name'])}: is labelled {int(wrong[0])}, data set "
                f"{self.dataset_name!r} has {num_classes} classes and ignores {self._ignore_label}: use its own labels"
            )
        pairs = scores.argmax(dim=0)[judged] * num_classes + labels[judged]
        counts = pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes).cpu()
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def _check(self, sample: Mapping[str, Any], pixels: Tensor, classes: Sequence[int]) -> None:
        size = (sample["height"], sample["width"])
        if pixels.shape[-2:] != size:
            raise InputError(
                f"image {sample['image_id']}: its segments are {tuple(pixels.shape[-2:])}, the photograph {size}: "
                "resize them to the photograph"
            )
        if classes and not 0 <= min(classes) <= max(classes) < len(self._names):
            wrong = max(classes) if max(classes) >= len(self._names) else min(classes)
            raise InputError(
                f"image {sample['image_id']}: a segment is of class {wrong}, data set {self.dataset_name!r} has "
                f"{len(self._names)} classes: segment with its vocabulary"
            )

    def evaluate(self) -> Results:
        """Averages over the images of all ranks.

        Returns:
            The same on all ranks: ``{"panoptic": {"PQ": .., ..}, "segm": {..}, "sem_seg": {..}}``.

        Raises:
            InputError: if there was nothing to judge.
        """
        gathered = comm.gather((self._pq, self._found, self._confusion))
        return from_main(lambda: self._judge(gathered))

    def _judge(self, gathered: Sequence[tuple[PQStat | None, dict | None, Tensor | None]]) -> Results:
        stats, found, confusions = (
            [part for part in column if part is not None] for column in zip(*gathered, strict=True)
        )
        if not (stats or found or confusions):
            raise InputError(f"data set {self.dataset_name!r}: there was no output to judge: check the model and data")
        tables: dict[str, dict[str, np.ndarray]] = {}
        if stats:
            tables["panoptic"] = panoptic_quality(functools.reduce(operator.iadd, stats), len(self._names))
        if found:
            merged = dict(itertools.chain.from_iterable(part.items() for part in found))
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO(self._instances_json)
            numbers = {id_: number for number, id_ in self._thing_ids.items()}
            tables["segm"] = mask_average_precision(truth, merged, numbers, len(self._names))
        if confusions:
            confusion = torch.stack(list(confusions)).sum(dim=0).numpy()
            tables["sem_seg"] = semantic_accuracy(confusion)
        # Instances are things, so their metrics need no suffix that says so.
        things = {s.replace("_th", ""): group for s, group in self._groups.items() if "_th" in s}
        results = {
            task: group_means(table, things if task == "segm" else self._groups) for task, table in tables.items()
        }
        if confusions:
            results["sem_seg"] |= pixel_accuracy(confusion)
        for task, metrics in results.items():
            logger.info("%s, %s:\n%s", self.dataset_name, task, create_small_table(metrics))
        if self.output_dir is not None:
            self._write(tables)
        return results

    def _write(self, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        assert self.output_dir is not None
        rows: dict[str, dict[str, float]] = {name: {} for name in self._names}
        for metric, values in itertools.chain.from_iterable(table.items() for table in tables.values()):
            for name, value in zip(self._names, values.tolist(), strict=True):
                if value == value:
                    rows[name][metric] = value
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "panoptic_classes.json").write_text(json.dumps(rows, indent=2) + "\n")


def _compare(
    sample: Mapping[str, Any],
    truth: list[dict[str, Any]],
    ids: np.ndarray,
    answer: list[dict[str, Any]],
    categories: Sequence[int],
) -> PQStat:
    """panopticapi's matching of one image, which wants the prediction in a file."""
    try:
        from panopticapi.evaluation import pq_compute_single_core
        from panopticapi.utils import id2rgb
    except ImportError as error:
        raise InputError(
            f"panoptic quality asks for panopticapi ({error}): install it as docs/install.md says"
        ) from None
    file = Path(sample["pan_seg_file_name"])
    common = {"image_id": sample["image_id"], "file_name": file.name}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Image.fromarray(id2rgb(ids)).save(Path(folder) / file.name, "PNG", compress_level=1)
        pair = ({**common, "segments_info": truth}, {**common, "segments_info": answer})
        return pq_compute_single_core(0, [pair], str(file.parent), folder, categories)
