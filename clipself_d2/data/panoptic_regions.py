"""Evaluation samples for region classification: panoptic segments as boxes, crops and masks with a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.structures import Boxes
from torchvision.ops import clip_boxes_to_image, masks_to_boxes

from clipself_d2.data.image import read_record
from clipself_d2.data.labels import read_panoptic_png
from clipself_d2.regions import enlarge


class PanopticRegionMapper:
    """Reads an image and its panoptic segments as labeled regions, by the rules of the released code.

    A thing's box is that of the json (without one, that of its mask) and its crop 1.5 times as large. The box of stuff
    is the tight one of its mask, and its crop the same. Segments without a pixel, or with a box too small or too large,
    are left out and counted. Crowds stay.
    """

    def __init__(
        self, max_segments: int = 100, min_size: float = 8.0, max_size: float = 1024.0, crop_scale: float = 1.5
    ):
        """Set the protocol.

        Args:
            max_segments: the first segments of an image that are considered.
            min_size: a box needs an area of at least min_size squared, in pixels of the image.
            max_size: and of at most max_size squared.
            crop_scale: the teacher's view of a thing, as a factor on the sides of its box.
        """
        self.max_segments = max_segments
        self.min_size = min_size
        self.max_size = max_size
        self.crop_scale = crop_scale

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a record of `load_panoptic` to an evaluation sample.

        Returns:
            The record with ``image`` (3 x H x W uint8), ``height``, ``width``, ``boxes`` and ``crop_boxes`` (`Boxes`),
            ``masks`` (R x H x W bool), ``classes`` (R long), ``isthing`` (R bool), and ``skipped_segments``, the number
            left out.

        Raises:
            ImageError: if the image or its PNG cannot be read.
            InputError: if they differ in size.
        """
        sample = read_record(record)
        shape = height, width = sample["height"], sample["width"]
        segments = record["segments_info"][: self.max_segments]
        ids = torch.tensor([s["id"] for s in segments], dtype=torch.long)
        masks = read_panoptic_png(record["pan_seg_file_name"], shape) == ids[:, None, None]
        isthing = torch.tensor([s["isthing"] for s in segments], dtype=torch.bool)
        boxes = torch.tensor([s.get("bbox", (0, 0, 0, 0)) for s in segments], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        visible = masks.flatten(1).any(dim=1)
        given = isthing & torch.tensor(["bbox" in s for s in segments], dtype=torch.bool)
        boxes[visible & ~given] = masks_to_boxes(masks[visible & ~given])
        # Last pixels count as edges, which makes the box of stuff a pixel narrower than the mask: as released.
        boxes[visible & ~given & isthing, 2:] += 1
        boxes = clip_boxes_to_image(boxes, shape)

        sides = boxes[:, 2:] - boxes[:, :2]
        area = sides.prod(dim=1)
        keep = visible & (sides > 0).all(dim=1) & (area >= self.min_size**2) & (area <= self.max_size**2)
        isthing, boxes = isthing[keep], boxes[keep]
        crops = enlarge(boxes, self.crop_scale, height, width).where(isthing[:, None], boxes)
        return {
            **sample,
            "boxes": Boxes(boxes),
            "crop_boxes": Boxes(crops),
            "masks": masks[keep],
            "classes": torch.tensor([s["category_id"] for s in segments], dtype=torch.long)[keep],
            "isthing": isthing,
            "skipped_segments": len(record["segments_info"]) - int(keep.sum()),
        }
