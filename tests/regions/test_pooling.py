import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.regions import letterbox_masks, pool_boxes, pool_masks, pooling, resize_masks


def dense_map(batch, channels, height, width, seed=0):
    return F.normalize(
        torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def bilinear(plane, y, x):
    """The value of a C x h x w map at a point whose whole numbers are the centres of cells."""
    height, width = plane.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(plane.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = plane[:, y0, x0] * (1 - (x - x0)) + plane[:, y0, x1] * (x - x0)
    bottom = plane[:, y1, x0] * (1 - (x - x0)) + plane[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


def pooled_by_loop(plane, box):
    """RoIAlign with one bin: the mean of ceil(side) samples a side."""
    x0, y0, x1, y1 = box
    ny, nx = math.ceil(y1 - y0), math.ceil(x1 - x0)
    total = torch.zeros(plane.shape[0])
    for i in range(ny):
        for j in range(nx):
            total += bilinear(plane, y0 + (i + 0.5) * (y1 - y0) / ny - 0.5, x0 + (j + 0.5) * (x1 - x0) / nx - 0.5)
    return F.normalize(total, dim=0)


def test_boxes_equal_a_loop():
    dense, stride = dense_map(2, 5, 6, 8), 16
    boxes = [torch.tensor([[0.0, 0, 128, 96], [10, 20, 50, 37]]), torch.tensor([[100.0, 60, 127, 95]])]
    expected = [pooled_by_loop(dense[b], box) for b in range(2) for box in (boxes[b] / stride).tolist()]
    torch.testing.assert_close(pool_boxes(dense, boxes, stride), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_box_of_whole_cells_is_their_mean():
    dense = dense_map(1, 7, 6, 6)
    [pooled] = pool_boxes(dense, [torch.tensor([[32.0, 16.0, 64.0, 48.0]])], 16)
    torch.testing.assert_close(pooled, F.normalize(dense[0, :, 1:3, 2:4].mean(dim=(1, 2)), dim=0))


def test_masks_equal_a_loop():
    dense = dense_map(1, 5, 6, 8)[0]
    masks = torch.rand(4, 6, 8) > 0.6
    masks[2] = False
    pooled = pool_masks(dense, masks)
    for embedding, mask in zip(pooled, masks, strict=True):
        cells = [dense[:, y, x] for y in range(6) for x in range(8) if mask[y, x]]
        expected = F.normalize(torch.stack(cells).mean(dim=0), dim=0) if cells else torch.zeros(5)
        torch.testing.assert_close(embedding, expected)


def test_masks_weigh_cells():
    dense = dense_map(1, 5, 2, 2)[0]
    weights = torch.tensor([[[0.25, 0.0], [0.5, 0.0]]])
    expected = F.normalize(0.25 * dense[:, 0, 0] + 0.5 * dense[:, 1, 0], dim=0)
    torch.testing.assert_close(pool_masks(dense, weights)[0], expected)


def test_no_regions():
    dense = dense_map(2, 5, 4, 4)
    assert pool_boxes(dense, [torch.zeros(0, 4)] * 2, 8).shape == (0, 5)
    assert pool_masks(dense[0], torch.zeros(0, 4, 4)).shape == (0, 5)
    assert resize_masks(torch.zeros(0, 9, 9, dtype=torch.bool), (4, 4)).shape == (0, 4, 4)


def test_boxes_without_area_or_outside_stay_finite():
    boxes = [torch.tensor([[3.0, 3, 3, 3], [500, 500, 600, 600], [-90, -90, -20, -20]])]
    assert torch.isfinite(pool_boxes(dense_map(1, 5, 4, 4), boxes, 8)).all()


def test_low_precision_maps_are_pooled_in_fp32():
    dense, boxes = dense_map(1, 5, 6, 6), [torch.tensor([[3.0, 5, 44, 40]])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pool_boxes(dense.bfloat16(), boxes, 8)
        by_mask = pool_masks(dense[0].bfloat16(), torch.ones(1, 6, 6))
    assert pooled.dtype == by_mask.dtype == torch.float32
    torch.testing.assert_close(pooled, pool_boxes(dense.bfloat16().float(), boxes, 8))


def test_gradients_reach_the_map():
    dense = dense_map(1, 5, 6, 6).requires_grad_()
    pool_boxes(dense, [torch.tensor([[8.0, 8, 24, 24]])], 8).sum().backward()
    assert (dense.grad[0, :, 1:3, 1:3] != 0).all() and (dense.grad[0, :, 4:, 4:] == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_area_is_the_covered_part_of_each_cell(height, width, rows, columns, seed):
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    resized = resize_masks(masks, (rows, columns), "area")
    # Each pixel cut into rows x columns parts, so that cells are whole numbers of parts.
    fine = masks.repeat_interleave(rows, 1).repeat_interleave(columns, 2).double()
    expected = fine.view(3, rows, height, columns, width).mean(dim=(2, 4))
    torch.testing.assert_close(resized.double(), expected, atol=1e-5, rtol=1e-5)


def test_one_pixel_never_vanishes():
    masks = torch.zeros(1, 480, 427, dtype=torch.bool)
    masks[0, 479, 426] = True
    weights = letterbox_masks(masks, 16, "area")
    assert weights.sum() > 0 and pool_masks(dense_map(1, 5, 16, 16)[0], weights).norm() == pytest.approx(1)


def test_letterboxed_area_is_exact_where_the_image_ends_in_a_cell():
    weights = letterbox_masks(torch.ones(1, 30, 40, dtype=torch.bool), 8)  # a cell is 5 pixels
    assert (weights[0, :6] == 1).all() and (weights[0, 6:] == 0).all()
    weights = letterbox_masks(torch.ones(1, 33, 40, dtype=torch.bool), 8)
    torch.testing.assert_close(weights[0, 6], torch.full((8,), 3 / 5))


@pytest.mark.parametrize(("method", "antialias"), [("bicubic", False), ("bicubic_antialias", True)])
def test_reference_variants_are_torch_resizes_above_zero(method, antialias):
    masks = torch.zeros(2, 48, 64, dtype=torch.bool)
    masks[0, 10:20, 10:30] = True
    masks[1, 5, 5] = True
    resized = F.interpolate(masks[None].float(), (12, 16), mode="bicubic", antialias=antialias)[0] > 0
    weights = letterbox_masks(masks, 16, method)
    assert torch.equal(weights[:, :12], resized.float()) and (weights[:, 12:] == 0).all()


def test_variants_dilate_as_reported():
    y, x = torch.meshgrid(torch.arange(480), torch.arange(640), indexing="ij")
    disc = ((y - 240) ** 2 + (x - 320) ** 2 <= 64**2)[None]
    cells = {method: letterbox_masks(disc, 64, method).sum().item() for method in pooling.MASK_RESIZES}
    assert cells["area"] == pytest.approx(disc.sum().item() / 100, rel=1e-4)
    # Without antialiasing about right; with it every cell that a wide kernel reaches counts.
    assert cells["bicubic"] == pytest.approx(cells["area"], rel=0.1)
    assert cells["bicubic_antialias"] > 1.2 * cells["area"]


def test_runs_of_masks_change_nothing(monkeypatch):
    masks = torch.rand(7, 20, 30) > 0.5
    together = resize_masks(masks, (5, 6))
    monkeypatch.setattr(pooling, "_MAX_ELEMENTS", 20 * 30 * 2)
    torch.testing.assert_close(resize_masks(masks, (5, 6)), together)


def test_unknown_method():
    with pytest.raises(InputError, match="nearest"):
        resize_masks(torch.ones(1, 4, 4, dtype=torch.bool), (2, 2), "nearest")
