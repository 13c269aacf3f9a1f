"""Evaluation samples with objects as labeled regions: region accuracy on any json of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Boxes

from clipself_d2.data.image import read_record
from clipself_d2.regions import enlarge


class InstanceRegionMapper:
    """Reads an image and its objects as labeled regions, all of them things.

    Crowds are left out, and boxes without area in the image. All other sizes count: unlike `PanopticRegionMapper`,
    which follows the released code on COCO, this has no limits of size.

    Args:
        crop_scale: the teacher's view of an object, as a factor on the sides of its box.
    """

    def __init__(self, crop_scale: float = 1.5):
        self.crop_scale = crop_scale

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a record of `load_instances` to an evaluation sample.

        Returns:
            ``image`` (3 x H x W uint8), ``file_name``, ``image_id``, ``height``, ``width``, ``boxes`` and
            ``crop_boxes`` (`Boxes`), ``classes`` (R long), ``isthing`` (R bool), and ``masks`` (R x H x W bool) if each
            of the objects has one.

        Raises:
            ImageError: if the image cannot be read, or is not of the size in the record.
        """
        sample = read_record(record)
        height, width = sample["height"], sample["width"]
        objects = [x for x in record.get("annotations", ()) if not x["iscrowd"]]
        of_box = ("bbox", "bbox_mode", "category_id")
        things = annotations_to_instances([{key: x[key] for key in of_box} for x in objects], (height, width))
        things.gt_boxes.clip((height, width))
        kept = things.gt_boxes.nonempty()
        things, objects = things[kept], [x for x, keep in zip(objects, kept.tolist(), strict=True) if keep]
        sample.pop("annotations", None)
        sample |= {
            "boxes": things.gt_boxes,
            "crop_boxes": Boxes(enlarge(things.gt_boxes.tensor, self.crop_scale, height, width)),
            "classes": things.gt_classes,
            "isthing": torch.ones(len(things), dtype=torch.bool),
        }
        if objects and all("segmentation" in x for x in objects):
            masks = annotations_to_instances(objects, (height, width), mask_format="bitmask").gt_masks
            sample["masks"] = masks.tensor
        return sample
