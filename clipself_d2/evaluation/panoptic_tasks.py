"""Detectron2's evaluators of panoptic quality, mask AP and semantic labels, with the numbers of every class.

Each takes one image at a time and what `OpenVocabularyPanopticEvaluator` has checked. On the main process ``evaluate``
returns ``{metric: K array in percent, NaN for classes that do not occur}``.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from clipself_d2.errors import InputError
from clipself_d2.evaluation.detections import AREAS, IOU_50, IOU_75, average_precision, each_image_once

logger = logging.getLogger(__name__)

Samples = Sequence[Mapping[str, Any]]
Table = dict[str, Any]


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """``PQ``, ``SQ`` and ``RQ`` by panopticapi, against the segments of the samples."""

    def __init__(self, dataset_name: str):
        try:
            import panopticapi.evaluation  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"panoptic quality needs panopticapi ({error}): install it as docs/install.md says"
            ) from None
        self._dataset_name = dataset_name
        self._num_classes = len(MetadataCatalog.get(dataset_name).stuff_classes)
        self.reset()

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Collect ``panoptic_seg``, as a PNG in memory, and the segments to find."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "pan_seg_file_name" not in sample:
                raise InputError(f"data set {self._dataset_name!r} has no panoptic labels: evaluate sem_seg only")
            ids, segments = output["panoptic_seg"]
            # Without ``isthing`` Detectron2 leaves the numbers of the classes as they are.
            found = [{"id": int(s["id"]), "category_id": int(s["category_id"])} for s in segments]
            unique = {"image_id": sample["image_id"], "file_name": f"{comm.get_rank()}_{len(self._predictions)}"}
            super().process([unique], [{"panoptic_seg": (ids, found)}])
            truth = [{"iscrowd": 0, **s} for s in sample["segments_info"]]
            for segment, mask in zip(truth, sample["masks"], strict=True):
                segment.setdefault("area", int(mask.sum()))
            file_name = str(Path(sample["pan_seg_file_name"]).absolute())
            self._predictions[-1]["truth"] = {**unique, "file_name": file_name, "segments_info": truth}

    def evaluate(self) -> Table:
        """Match the segments of all images, on all cores."""
        from panopticapi.evaluation import pq_compute_multi_core

        predictions = list(itertools.chain.from_iterable(comm.gather(self._predictions)))
        if not comm.is_main_process():
            return {}
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            for prediction in predictions:
                (Path(folder) / prediction["file_name"]).write_bytes(prediction.pop("png_string"))
            pairs = [(prediction["truth"], prediction) for prediction in predictions]
            try:
                stat = pq_compute_multi_core(pairs, "/", folder, range(self._num_classes))
            except KeyError as error:
                raise InputError(f"the segments of a prediction and its list of them differ: {error}") from error
        counts = stat.pq_per_cat.items()
        occurring: dict[int, dict[str, Any]] = {k: {} for k, count in counts if count.tp + count.fp + count.fn}
        by_class = stat.pq_average(occurring, isthing=None)[1] if occurring else {}
        table = {metric: np.full(self._num_classes, np.nan) for metric in ("PQ", "SQ", "RQ")}
        for k, row in by_class.items():
            for metric, value in row.items():
                table[metric.upper()][k] = 100 * value
        return table


class MaskAPEvaluator(COCOEvaluator):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl`` of masks of things, by the json of instances.

    Only the images that were predicted and have annotations count.
    """

    def __init__(self, dataset_name: str):
        metadata = MetadataCatalog.get(dataset_name)
        if "json_file" not in metadata.as_dict():
            raise InputError(f"data set {dataset_name!r} has no instance annotations: evaluate no instances")
        if not Path(metadata.json_file).is_file():
            raise InputError(f"{metadata.json_file}: is missing: prepare the data set as datasets/README.md says")
        super().__init__(dataset_name, ("segm",), use_fast_impl=False)
        self._classes = dict(metadata.thing_dataset_id_to_contiguous_id)
        self._num_classes = len(metadata.stuff_classes)
        # With the true metadata COCOEvaluator asserts that things are the first of all classes.
        self._metadata = Metadata()
        self._max_dets_per_image = [1, 10, 100]

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Collect the things of ``instances``, with the json's categories for classes."""
        category_ids = torch.full((self._num_classes,), -1)
        category_ids[list(self._classes.values())] = torch.tensor(list(self._classes))
        for sample, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            things = Instances(
                found.image_size,
                pred_boxes=Boxes(torch.zeros(len(found), 4)),  # not used, but asked for
                pred_masks=found.pred_masks,
                scores=found.scores,
                pred_classes=category_ids[found.pred_classes],
            )
            super().process([sample], [{"instances": things[things.pred_classes >= 0]}])

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: None = None) -> None:
        predictions, truth = each_image_once(predictions), self._coco_api
        known = [p for p in predictions if p["image_id"] in truth.imgs]
        if not known:
            raise InputError(
                f"image {predictions[0]['image_id']} and all others are not in the instance annotations: use their json"
            )
        if len(known) < len(predictions):
            missing = len(predictions) - len(known)
            logger.warning("%d of %d images are not in the instance annotations", missing, len(predictions))
        if strange := [category_id for category_id in truth.cats if category_id not in self._classes]:
            raise InputError(
                f"the instance annotations have category {strange[0]}, the data set does not: use its own json"
            )
        images = sorted(p["image_id"] for p in known)
        if not any(p["instances"] for p in known):  # pycocotools takes no empty list
            nothing = {"size": [1, 1], "counts": coco_mask.encode(np.zeros((1, 1), np.uint8, order="F"))["counts"]}
            common = {"image_id": images[0], "category_id": next(iter(self._classes)), "score": 0.0}
            known = [{"instances": [{**common, "segmentation": nothing}]}]
        with contextlib.redirect_stdout(io.StringIO()):
            super()._eval_predictions(known, img_ids=images)

    def _derive_coco_results(self, coco_eval: COCOeval, iou_type: str, class_names: None = None) -> Table:
        ap = average_precision(coco_eval.eval["precision"])[..., -1]  # T x categories x A
        columns = {
            "AP": ap[..., 0].mean(axis=0),
            "AP50": ap[IOU_50, :, 0],
            "AP75": ap[IOU_75, :, 0],
            **{f"AP{area[0]}": ap[..., i].mean(axis=0) for i, area in enumerate(AREAS) if area != "all"},
        }
        table = {metric: np.full(self._num_classes, np.nan) for metric in columns}
        for metric, column in columns.items():
            table[metric][[self._classes[category_id] for category_id in coco_eval.params.catIds]] = column
        return table

    def evaluate(self) -> Table:
        """Match the masks of all images."""
        return super().evaluate().get("segm", {})


class SemanticEvaluator(SemSegEvaluator):
    """``mIoU`` and ``mACC`` by class; ``fwIoU`` and ``pACC``, which are over pixels, as single numbers."""

    def __init__(self, dataset_name: str):
        # SemSegEvaluator's own constructor pairs files of images and labels, but the samples hold labels.
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name, self._num_classes = dataset_name, len(metadata.stuff_classes)
        self._class_names = range(self._num_classes)
        self._ignore_label = metadata.get("ignore_label", 255)
        self._distributed, self._output_dir, self._compute_boundary_iou = True, None, False
        self._logger = logging.getLogger(__name__)
        self.reset()

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Count the pixels of ``sem_seg`` by predicted and labeled class."""
        num = self._num_classes
        for sample, output in zip(inputs, outputs, strict=True):
            scores = output["sem_seg"]
            labels = sample["sem_seg"].to(scores.device)
            if len(scores) != num:
                raise InputError(
                    f"image {sample['image_id']}: sem_seg has {len(scores)} classes, data set {self._dataset_name!r} "
                    f"{num}: segment with its vocabulary"
                )
            ignored = labels == self._ignore_label
            wrong = labels[~ignored & ((labels < 0) | (labels >= num))]
            if len(wrong):
                raise InputError(
                    f"{sample.get('sem_seg_file_name', sample['file_name'])}: is labeled {int(wrong[0])}, data set "
                    f"{self._dataset_name!r} has {num} classes and ignores {self._ignore_label}: use its own labels"
                )
            pairs = scores.argmax(dim=0) * (num + 1) + labels.masked_fill(ignored, num)
            counts = pairs.flatten().bincount(minlength=(num + 1) ** 2)
            self._conf_matrix += counts.view(num + 1, num + 1).cpu().numpy()

    def evaluate(self) -> Table:
        """Sum the counts of all ranks."""
        results = super().evaluate()
        if not results:
            return {}
        metrics = results["sem_seg"]
        columns = {"mIoU": "IoU", "mACC": "ACC"}
        table = {name: np.array([metrics[f"{key}-{k}"] for k in self._class_names]) for name, key in columns.items()}
        return {**table, "fwIoU": float(metrics["fwIoU"]), "pACC": float(metrics["pACC"])}
