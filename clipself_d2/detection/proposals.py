"""Region proposals for distillation: from the output of a detector to the json that `regions.load_proposals` reads.

The authors of CLIPSelf released their proposals on COCO, but neither the network that made them nor its filter. The
filter here:

- **NMS at IoU 0.7 over all boxes of an image.** A proposal network suppresses duplicates only within a level of its
  pyramid, and the next level often has the same object again.
- **The 50 best boxes per image.** Distillation draws up to 20 of them per visit with equal probability, and the tail
  of a thousand boxes would crowd out the objects. 50 boxes for each image of COCO's train split are 5.9 million boxes,
  0.8 GB of json.
- **No score threshold.** The confidence of a network depends on its training. A number of boxes is comparable across
  networks, a threshold is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import clip_boxes_to_image, nms

from clipself_d2.data.coco_json import Written, box_fields, write_annotations
from clipself_d2.errors import InputError


@dataclass(frozen=True)
class ProposalFilter:
    """Choose the proposals of an image.

    Attributes:
        top: most proposals per image, at least 1.
        nms: IoU above which the worse of two boxes is dropped, 0..1; 1 keeps all.
        min_score: lowest probability of being an object, 0..1.

    Raises:
        InputError: a value out of its range.
    """

    top: int = 50
    nms: float = 0.7
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"top={self.top}: keep at least 1 proposal per image")
        for name in ("nms", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: must be within 0..1")

    def __call__(self, proposals: Instances) -> Instances:
        """Filter the proposals of one image.

        Args:
            proposals: `proposal_boxes` and `objectness_logits`, in pixels of `image_size`, in any order.

        Returns:
            The same fields, best first. Boxes are clipped to the image; those with a side below one pixel are dropped.
        """
        boxes = clip_boxes_to_image(proposals.proposal_boxes.tensor.float(), proposals.image_size)
        logits = proposals.objectness_logits.float()
        valid = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1) & (logits.sigmoid() >= self.min_score)  # False for NaN
        boxes, logits = boxes[valid], logits[valid]
        kept = nms(boxes, logits, self.nms)[: self.top]
        return Instances(proposals.image_size, proposal_boxes=Boxes(boxes[kept]), objectness_logits=logits[kept])


def to_json(proposals: Instances) -> list[Any]:
    """Boxes and logits of an image as lists, exactly; see `from_json`."""
    return [proposals.proposal_boxes.tensor.tolist(), proposals.objectness_logits.tolist()]


def from_json(content: list[Any], size: tuple[int, int]) -> Instances:
    """The proposals that `to_json` took apart, of an image of this height and width."""
    boxes, logits = torch.tensor(content[0]).reshape(-1, 4), torch.tensor(content[1])
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=logits)


def check_can_propose(model: Any) -> None:
    """Raise an InputError if a model, or its class, has no method `propose`."""
    if not callable(getattr(model, "propose", None)):
        name = getattr(model, "__name__", type(model).__name__)
        raise InputError(
            f"{name} makes no region proposals: use a config of F-ViT, of a region proposal network such as "
            "configs/detection/rpn_r50_fpn_ovcoco.py, or of a mask generator (configs/panoptic)"
        )


def write_proposals(
    path: str | Path, images: Iterable[tuple[Mapping[str, Any], Instances]], info: Mapping[str, Any] | None = None
) -> Written:
    """Stream proposals into a COCO-format json, which appears under its name only when complete.

    An image without proposals is listed in `"images"`; distillation takes its fallback box there.

    Args:
        path: the new file.
        images: samples (`image_id`, `file_name`, `height`, `width`) and their filtered proposals.
        info: `"info"` of the file: how the proposals were made.

    Returns:
        The counts.

    Raises:
        InputError: if no image has a proposal, because distillation would refuse the file.
        OSError: the file cannot be written.
    """
    head = {"info": dict(info or {}), "categories": [{"id": 1, "name": "object"}]}
    annotated = ((sample, _annotations(kept)) for sample, kept in images)
    return write_annotations(
        path, annotated, head, "has a proposal: lower --min-score, or train the network for longer"
    )


def _annotations(kept: Instances) -> list[dict[str, Any]]:
    """COCO annotations of an image; `score` is the probability of being an object."""
    scores = kept.objectness_logits.sigmoid().tolist()
    boxes = box_fields(kept.proposal_boxes.tensor)
    return [{"category_id": 1, **box, "score": round(score, 4)} for box, score in zip(boxes, scores, strict=True)]
