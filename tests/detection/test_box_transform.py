import math

import pytest
import torch

from clipself_d2.detection.box_transform import BoundedBoxTransform


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_boxes_equal_a_loop(weights):
    deltas = torch.tensor([[0.3, -0.2, 0.5, -0.4], [0, 0, -3.0, 3.0], [0, 0, -9.0, 90.0], [1.0, 0, 90.0, -90.0]])
    boxes = torch.tensor([[10.0, 20, 50, 100]]).expand(4, 4)
    results = BoundedBoxTransform(weights).apply_deltas(deltas, boxes)
    for result, delta in zip(results.tolist(), deltas.tolist(), strict=True):
        dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
        width, height = (side * min(max(math.exp(d), 0.016), 62.5) for side, d in ((40, dw), (80, dh)))
        x, y = 30 + 40 * dx, 60 + 80 * dy
        assert result == pytest.approx([x - width / 2, y - height / 2, x + width / 2, y + height / 2], abs=1e-3)
