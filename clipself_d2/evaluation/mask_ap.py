"""Average precision of masks of things, of every class (paper table 6)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from clipself_d2.data.instances import load_instances
from clipself_d2.errors import InputError
from clipself_d2.evaluation.coco_eval import AREAS, load_results, match_detections, require_coco_eval
from clipself_d2.evaluation.detections import each_image_once
from clipself_d2.evaluation.summary import IOU_50, IOU_75, average_precision

logger = logging.getLogger(__name__)


class MaskAPEvaluator(COCOEvaluator):
    """``AP``, ``AP50``, ``AP75``, ``APs``, ``APm`` and ``APl`` of masks of things, by the json of instances.

    Only the images that were predicted and have annotations count.
    """

    def __init__(self, dataset_name: str):
        require_coco_eval()
        metadata = MetadataCatalog.get(dataset_name)
        if "json_file" not in metadata.as_dict():
            raise InputError(f"data set {dataset_name!r} has no instance annotations: evaluate no instances")
        load_instances(metadata.json_file, metadata.image_root)  # COCO's reader, which follows, checks nothing
        super().__init__(dataset_name, ("segm",), use_fast_impl=False)
        self._classes = dict(metadata.thing_dataset_id_to_contiguous_id)
        self._num_classes = len(metadata.stuff_classes)
        # With the true metadata COCOEvaluator asserts that things are the first of all classes.
        self._metadata = Metadata()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
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
        # Without a box, the area of a detection is that of its mask.
        results = [{k: v for k, v in r.items() if k != "bbox"} for p in known for r in p["instances"]]
        found = load_results(truth, results)
        matched = match_detections(truth, found, "segm", max_dets=[100], image_ids=images)
        ap = average_precision(matched["precision"])[..., 0]  # T x categories x A
        columns = {
            "AP": ap[..., 0].mean(axis=0),
            "AP50": ap[IOU_50, :, 0],
            "AP75": ap[IOU_75, :, 0],
            **{f"AP{area[0]}": ap[..., i].mean(axis=0) for i, area in enumerate(AREAS) if area != "all"},
        }
        table = {metric: np.full(self._num_classes, np.nan) for metric in columns}
        for metric, column in columns.items():
            table[metric][[self._classes[category_id] for category_id in sorted(truth.getCatIds())]] = column
        self._results["segm"] = table

    def evaluate(self) -> dict[str, np.ndarray]:
        """Match the masks of all images."""
        return super().evaluate().get("segm", {})
