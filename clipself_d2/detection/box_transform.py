"""Boxes from deltas, with the bounds of the released code."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor


class BoundedBoxTransform(Box2BoxTransform):
    """Detectron2's transform, which bounds how much a box grows; here its sides shrink to 16 / 1000 at most, too."""

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas that turn boxes into others, N x 4, without Detectron2's check that waits for a GPU."""
        old, new = (boxes[:, 2:] - boxes[:, :2] for boxes in (src_boxes, target_boxes))
        shift = (target_boxes[:, :2] + 0.5 * new) - (src_boxes[:, :2] + 0.5 * old)
        deltas = torch.cat([shift / old, torch.log(new / old)], dim=1)
        return torch.stack([x * weight for x, weight in zip(deltas.unbind(1), self.weights, strict=True)], dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas dx, dy, dw, dh, N x 4, to boxes N x 4."""
        shift, width, height = deltas.split([2, 1, 1], dim=1)
        least_width, least_height = (-self.scale_clamp * weight for weight in self.weights[2:])
        bounded = torch.cat([shift, width.clamp(min=least_width), height.clamp(min=least_height)], dim=1)
        return super().apply_deltas(bounded, boxes)
