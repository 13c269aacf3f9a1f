import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from clipself_d2.detection.pooler import RegionPooler, assign_levels
from tests.second_device import HostWaits, SecondDevice

STRIDES = [3.5, 7, 14, 28]
SIDES = [30, 111, 113, 223, 225, 447, 449, 2000]
LEVELS = [0, 0, 1, 1, 2, 2, 3, 3]


def boxes_of(sides):
    return torch.tensor([[5.0 + i, 3.0, 5.0 + i + side, 3.0 + side] for i, side in enumerate(sides)])


def bilinear(x, row, column):
    """Value of a C x h x w map at a point, as RoIAlign reads it: up to one cell beyond the border, clamped."""
    height, width = x.shape[1:]
    if row < -1 or row > height or column < -1 or column > width:
        return x.new_zeros(x.shape[0])
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = math.floor(row), math.floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = row - top, column - left
    upper = x[:, top, left] * (1 - across) + x[:, top, right] * across
    lower = x[:, bottom, left] * (1 - across) + x[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def naive_roi_align(x, box, size, stride):
    """Half-pixel aligned RoIAlign with as many samples in a bin as it has cells."""
    x0, y0, x1, y1 = (value / stride - 0.5 for value in box.double().tolist())
    height, width = (y1 - y0) / size, (x1 - x0) / size
    rows, columns = math.ceil(height), math.ceil(width)
    out = x.new_zeros(x.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            for a in range(rows):
                for b in range(columns):
                    point = y0 + (i + (a + 0.5) / rows) * height, x0 + (j + (b + 0.5) / columns) * width
                    out[:, i, j] += bilinear(x, *point) / (rows * columns)
    return out


def maps_of(side, channels=3, images=2, strides=STRIDES):
    return [torch.randn(images, channels, math.ceil(side / s), math.ceil(side / s)) for s in strides]


# ---- levels ----


def test_thresholds_are_112_224_448():
    assert assign_levels(boxes_of(SIDES), 4).tolist() == LEVELS
    assert assign_levels(boxes_of([112, 224, 448]), 4).tolist() == [1, 2, 3]


@given(st.floats(0, 3000), st.floats(0, 3000), st.integers(1, 5), st.sampled_from([28.0, 56.0, 224.0]))
def test_levels_follow_the_square_root_of_the_area(width, height, levels, canonical):
    side = math.sqrt(width * height)
    ratio = math.log2(side / canonical + 1e-6)
    if abs(ratio - round(ratio)) < 1e-3:  # fp32 decides
        return
    found = assign_levels(torch.tensor([[1.0, 2.0, 1 + width, 2 + height]]), levels, canonical)
    assert found.tolist() == [min(max(math.floor(ratio), 0), levels - 1)]


def test_boxes_without_area_are_small():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 4, 900], [5, 5, 900, 5]])
    assert assign_levels(boxes, 4).tolist() == [0, 0, 0]


# ---- pooling ----


def test_against_a_naive_loop():
    """One level at a time, strides that are no powers of two, float64 sums."""
    maps = maps_of(250, channels=2)
    boxes = [
        torch.tensor([[3.3, 10.1, 95.7, 60.2], [-9.0, 20.5, 130.3, 260.9]]),
        torch.tensor([[7.7, 1.2, 249.0, 240.4]]),
    ]
    pooled = RegionPooler(3, STRIDES)(maps, boxes)
    expected = [
        naive_roi_align(maps[0][0].double(), boxes[0][0], 3, 3.5),
        naive_roi_align(maps[1][0].double(), boxes[0][1], 3, 7),
        naive_roi_align(maps[2][1].double(), boxes[1][0], 3, 14),
    ]
    torch.testing.assert_close(pooled.double(), torch.stack(expected), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("strides", [STRIDES, [4, 8, 16, 32]])
@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_box_from_its_level_and_image(strides, size, device):
    """torchvision on one box and one map at a time."""
    maps = maps_of(460, images=3, strides=strides)
    order = torch.randperm(len(SIDES))
    boxes = [boxes_of(SIDES)[order], boxes_of([]).reshape(0, 4), boxes_of([60, 500])]
    with SecondDevice(), HostWaits() as waits:
        pooled = RegionPooler(size, strides)(
            *([x.to(device, non_blocking=True) for x in each] for each in (maps, boxes))
        )
        assert pooled.shape == (10, 3, size, size) and (device == "cpu" or not waits.lines)
        pooled = pooled.cpu()
    wanted = [(0, LEVELS[i], box) for i, box in zip(order.tolist(), boxes[0], strict=True)]
    wanted += [(2, level, box) for level, box in zip((0, 3), boxes[2], strict=True)]
    for found, (image, level, box) in zip(pooled, wanted, strict=True):
        alone = roi_align(maps[level][image : image + 1], [box[None]], size, 1 / strides[level], 0, aligned=True)
        torch.testing.assert_close(found, alone[0])


def test_gradients_reach_the_level_that_was_read():
    maps = [x.requires_grad_() for x in maps_of(460)]
    RegionPooler(7, STRIDES)(maps, [boxes_of([150]), boxes_of([30])]).sum().backward()
    touched = [[bool(image.abs().sum() > 0) for image in x.grad] for x in maps]
    assert touched == [[False, True], [True, False], [False, False], [False, False]]


def test_no_boxes():
    maps = [x.requires_grad_() for x in maps_of(100)]
    pooled = RegionPooler(7, STRIDES)(maps, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in maps)


def test_boxes_beyond_the_map_and_without_area_give_numbers():
    boxes = torch.tensor([[5.0, 5, 5, 5], [-500, -500, -400, -400], [-1e4, -10, 1e4, 10], [90, 90, 20, 20]])
    pooled = RegionPooler(7, STRIDES)(maps_of(100, images=1), [boxes])
    assert torch.isfinite(pooled).all() and not pooled[1].any()


def test_bfloat16_maps_are_pooled_in_fp32():
    maps = [x.bfloat16() for x in maps_of(460)]
    boxes = [boxes_of(SIDES), boxes_of([50])]
    with torch.autocast("cpu", torch.bfloat16):
        pooled = RegionPooler(7, STRIDES)(maps, boxes)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, RegionPooler(7, STRIDES)([x.float() for x in maps], boxes))
