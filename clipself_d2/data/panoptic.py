"""Evaluation samples with panoptic or semantic ground truth: segments as masks, or as labeled regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, masks_to_boxes

from clipself_d2.data.image import read_record
from clipself_d2.data.labels import ignore_label, read_panoptic_png, read_semantic_labels
from clipself_d2.errors import InputError
from clipself_d2.regions import enlarge


class PanopticMapper:
    """Reads an image and its labels. The masks of the ground truth can serve as a mask generator."""

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a record to an evaluation sample.

        Args:
            record: ``file_name`` and ``pan_seg_file_name`` with ``segments_info`` (`load_panoptic`), or
                ``sem_seg_file_name`` (`load_semantic`), or both; optionally ``ignore_label``.

        Returns:
            The record with ``image`` (3 x H x W uint8), ``height``, ``width``, ``masks`` (R x H x W bool), ``classes``
            (R long), ``isthing`` and ``iscrowd`` (R bool), in the order of ``segments_info``, and ``sem_seg`` (H x W
            long: classes, or the ignored label). Semantic labels come from their own file where there is one, else from
            the segments. Without panoptic labels, every class of the image is one segment of stuff.

        Raises:
            ImageError: if a file cannot be read.
            InputError: if there are no labels, they are of another size than the image, or the segments and the
                panoptic PNG differ.
        """
        sample = read_record(record)
        shape = sample["height"], sample["width"]
        if not {"sem_seg_file_name", "pan_seg_file_name"} & record.keys():
            raise InputError(
                f"{record['file_name']}: has no panoptic or semantic labels: name a data set that has them"
            )
        if "sem_seg_file_name" in record:
            sample["sem_seg"] = read_semantic_labels(record["sem_seg_file_name"], shape)
        if "pan_seg_file_name" in record:
            segments = record["segments_info"]
            ids = read_panoptic_png(record["pan_seg_file_name"], shape)
            indices = segment_indices(ids, [s["id"] for s in segments], record["pan_seg_file_name"])
            classes = torch.tensor([s["category_id"] for s in segments], dtype=torch.long)
            isthing = torch.tensor([bool(s["isthing"]) for s in segments], dtype=torch.bool)
            iscrowd = torch.tensor([bool(s.get("iscrowd", 0)) for s in segments], dtype=torch.bool)
            masks = indices == torch.arange(len(segments))[:, None, None]
            # The last entry is for unlabeled pixels, whose index is -1.
            sample.setdefault("sem_seg", torch.cat([classes, torch.tensor([ignore_label(record)])])[indices])
        else:
            labels = sample["sem_seg"].unique()
            classes = labels[labels != ignore_label(record)]
            isthing = iscrowd = torch.zeros(len(classes), dtype=torch.bool)
            masks = sample["sem_seg"] == classes[:, None, None]
        return {**sample, "masks": masks, "classes": classes, "isthing": isthing, "iscrowd": iscrowd}


class PanopticRegionMapper:
    """Reads an image and its panoptic segments as labeled regions, by the rules of the released code.

    A thing's box is that of the json (without one, that of its mask) and its crop 1.5 times as large. The box of stuff
    is the tight one of its mask, and its crop the same. Segments without a pixel, or with a box too small or too large,
    are left out and counted. Crowds stay.

    Args:
        max_segments: the first segments of an image that are considered.
        min_size: a box needs an area of at least min_size squared, in pixels of the image.
        max_size: and of at most max_size squared.
        crop_scale: the teacher's view of a thing, as a factor on the sides of its box.
    """

    def __init__(
        self, max_segments: int = 100, min_size: float = 8.0, max_size: float = 1024.0, crop_scale: float = 1.5
    ):
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


def segment_indices(ids: Tensor, listed: Sequence[int], source: str) -> Tensor:
    """Find each pixel's segment in the list of a json.

    Args:
        ids: H x W long, the segment ids of a panoptic PNG; 0 is unlabeled.
        listed: the ids in the json, each once.
        source: the file's name, for errors.

    Returns:
        H x W long: 0 .. len(listed) - 1, or -1 where unlabeled.

    Raises:
        InputError: if an id is listed but not in the PNG, or is in the PNG but not listed.
    """
    found, inverse = ids.unique(return_inverse=True)
    if lacks := sorted(set(listed) - set(found[found > 0].tolist())):
        raise InputError(f"{source}: lacks segment {lacks[0]} of the json: use the PNG and the json of one data set")
    if extra := sorted(set(found.tolist()) - {0, *listed}):
        raise InputError(f"{source}: has segment {extra[0]} that the json lacks: use the PNG and json of one data set")
    index = {id_: number for number, id_ in enumerate(listed)}
    return torch.tensor([index.get(id_, -1) for id_ in found.tolist()], dtype=torch.long)[inverse]
