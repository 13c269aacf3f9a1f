"""Region proposals for distillation: from what a detector proposes to the json that `regions.load_proposals` reads.

The authors of CLIPSelf released their proposals of COCO but neither the network that made them nor how they were
filtered. Ours are chosen so:

- **NMS at IoU 0.7 over all boxes of an image.** A proposal network suppresses duplicates within a level of its pyramid
  only; the same object comes again from the next one.
- **The 50 best of an image.** Distillation draws at most 20 of them at each visit, all with the same chance, so the
  tail of a thousand boxes would crowd out the objects; and 50 for each photograph of COCO's train split are 5.9 million
  boxes, 0.8 GB of json.
- **No least score.** How sure a network is depends on its training; the number of boxes is comparable, a threshold is
  not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import clip_boxes_to_image, nms

from clipself_d2.data.coco_json import Written, box_fields, write_annotations
from clipself_d2.errors import InputError


@dataclass(frozen=True)
class ProposalFilter:
    """Which proposals of an image are kept.

    Attributes:
        top: so many of the best, at least 1.
        nms: IoU above which the worse of two boxes is dropped, 0..1; 1 keeps all.
        min_score: least probability of being an object, 0..1.
    """

    top: int = 50
    nms: float = 0.7
    min_score: float = 0.0

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its range."""
        if self.top < 1:
            raise InputError(f"top={self.top}: keep at least 1 proposal an image")
        for name in ("nms", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: must be within 0..1")

    def __call__(self, proposals: Instances) -> Instances:
        """Filters the proposals of one image.

        Args:
            proposals: `proposal_boxes` and `objectness_logits`, in pixels of `image_size`, in any order.

        Returns:
            The same fields, best first; boxes are clipped to the image, and those with a side below a pixel are gone.
        """
        boxes = clip_boxes_to_image(proposals.proposal_boxes.tensor.float(), proposals.image_size)
        logits = proposals.objectness_logits.float()
        sound = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1) & (logits.sigmoid() >= self.min_score)  # false for NaN
        boxes, logits = boxes[sound], logits[sound]
        kept = nms(boxes, logits, self.nms)[: self.top]
        return Instances(proposals.image_size, proposal_boxes=Boxes(boxes[kept]), objectness_logits=logits[kept])


def propose(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], precision: Any = None
) -> Iterator[tuple[dict[str, Any], Instances]]:
    """Runs a model over photographs.

    Args:
        model: has `propose(inputs) -> list[Instances]`, in evaluation mode.
        loader: lists of samples of `ImageMapper`.
        precision: a context in which the model runs, as `engine.inference.autocast` gives.

    Yields:
        Each sample with its proposals in pixels of the photograph, on the CPU.

    Raises:
        InputError: if the model cannot propose.
    """
    check_can_propose(model)
    for batch in loader:
        if not batch:  # none of its images could be read
            continue
        with torch.inference_mode(), precision or nullcontext():
            results = model.propose(batch)  # type: ignore[operator]
        for sample, proposals in zip(batch, results, strict=True):
            yield sample, proposals.to("cpu")


def check_can_propose(model: Any) -> None:
    """Raises InputError if a model, or its class, has no method `propose`."""
    if not callable(getattr(model, "propose", None)):
        name = getattr(model, "__name__", type(model).__name__)
        raise InputError(
            f"{name} makes no region proposals: use a config of F-ViT or of a region proposal network, such as "
            "configs/detection/rpn_r50_fpn_ovcoco.py"
        )


def write_proposals(
    path: str | Path, images: Iterable[tuple[Mapping[str, Any], Instances]], info: Mapping[str, Any] | None = None
) -> Written:
    """Streams proposals into a COCO-format json, which appears whole under its name or not at all.

    An image without proposals is listed in `"images"`; distillation takes its fallback box there.

    Args:
        path: the new file.
        images: samples (`image_id`, `file_name`, `height`, `width`) with what `ProposalFilter` keeps of an image's
            proposals.
        info: what the file's `"info"` says: how the proposals were made.

    Returns:
        The counts.

    Raises:
        InputError: if no image has a proposal, for distillation would refuse that file.
        OSError: the disk.
    """
    about = {"info": dict(info or {}), "categories": [{"id": 1, "name": "object"}]}
    annotated = ((sample, _annotations(kept)) for sample, kept in images)
    return write_annotations(
        path, annotated, about, "has a proposal: lower --min-score, or train the network for longer"
    )


def _annotations(kept: Instances) -> list[dict[str, Any]]:
    """COCO's annotations of an image; `score` is the probability of being an object."""
    scores = kept.objectness_logits.sigmoid().tolist()
    boxes = box_fields(kept.proposal_boxes.tensor)
    return [{"category_id": 1, **box, "score": round(score, 4)} for box, score in zip(boxes, scores, strict=True)]
