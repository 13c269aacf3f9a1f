"""Evaluation samples with objects as labeled regions: region accuracy on any json of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from clipself_d2.data.image import read_record
from clipself_d2.regions import enlarge


class InstanceRegionMapper:
    """Reads an image and its objects as labeled regions, all of them things.

    Crowds are left out, and boxes without area in the image. All other sizes count: unlike `PanopticRegionMapper`,
    which follows the released code on COCO, this has no limits of size.
    """

    def __init__(self, crop_scale: float = 1.5):
        """Set the teacher's view of an object, as a factor on the sides of its box."""
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
        boxes = torch.tensor([BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects])
        boxes = clip_boxes_to_image(boxes.reshape(-1, 4).float(), (height, width))
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        objects = [x for x, kept in zip(objects, keep.tolist(), strict=True) if kept]
        boxes = boxes[keep]
        sample.pop("annotations", None)
        sample |= {
            "boxes": Boxes(boxes),
            "crop_boxes": Boxes(enlarge(boxes, self.crop_scale, height, width)),
            "classes": torch.tensor([x["category_id"] for x in objects], dtype=torch.long),
            "isthing": torch.ones(len(objects), dtype=torch.bool),
        }
        if objects and all("segmentation" in x for x in objects):
            sample["masks"] = torch.stack([_mask(x["segmentation"], height, width) for x in objects])
        return sample


def _mask(segmentation: list[list[float]] | dict[str, Any], height: int, width: int) -> Tensor:
    """Draw polygons, or decompress run lengths: H x W bool."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(segmentation))).bool()
