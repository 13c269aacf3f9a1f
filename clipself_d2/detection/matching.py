"""Match boxes (anchors or proposals) to the objects of an image, as the released code does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

# Most overlaps in memory at once: 64 MB. 10,000 objects and the 102,300 anchors of a 640 x 640 image have 4 GB.
_MAX_OVERLAPS = 2**24


@dataclass(frozen=True)
class BoxMatcher:
    """Match each box to the object that it overlaps most, then each object's best boxes to that object.

    Detectron2's `Matcher` also labels an object's best boxes as objects, but leaves them matched to what they overlap
    most. A small object inside a large one may then have no box at all. It needs all overlaps at once, too.

    Attributes:
        negative: a box is background below this IoU with all objects.
        positive: a box matches from this IoU on. Between the two it is ignored.
        best: an object's best boxes (more than one if they overlap it equally) match it from this IoU on, whatever else
            they overlap; if a box is the best of several objects, the last of them has it. None: no such matches.
    """

    negative: float
    positive: float
    best: float | None = None

    def __call__(self, objects: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Match boxes.

        Args:
            objects: M x 4.
            boxes: N x 4.

        Returns:
            N long: the object of each box, 0 where it overlaps none; and N int8: 1 for an object, 0 for the background,
            -1 to ignore.
        """
        matches = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        highest = boxes.new_zeros(len(boxes))
        best_of = torch.full_like(matches, -1)
        chunk = max(1, _MAX_OVERLAPS // max(1, len(boxes)))
        for start in range(0, len(objects) if len(boxes) else 0, chunk):
            overlaps = pairwise_iou(Boxes(objects[start : start + chunk]), Boxes(boxes))
            values, indices = overlaps.max(dim=0)
            matches = torch.where(values > highest, indices + start, matches)
            highest = torch.maximum(highest, values)
            if self.best is not None:
                largest = overlaps.amax(dim=1, keepdim=True)
                is_best = (overlaps == largest) & (largest >= self.best)
                numbers = torch.arange(start, start + len(overlaps), dtype=torch.int32, device=boxes.device)
                last = numbers[:, None].where(is_best, -1).amax(dim=0)
                best_of = torch.maximum(best_of, last.long())
        has_object = best_of >= 0
        labels = torch.full_like(matches, -1, dtype=torch.int8)
        labels[highest < self.negative] = 0
        labels[(highest >= self.positive) | has_object] = 1
        return torch.where(has_object, best_of, matches), labels
