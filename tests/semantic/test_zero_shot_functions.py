"""The functions of segmentation by text alone, against loops over cells and pixels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.semantic.zero_shot import confident_classes, patch_weighted_scores, resize_cells
from tests.semantic.loops import softmax


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    origin=st.sampled_from([0.0, 0.125]),
)
def test_resize_by_loops_over_pixels(rows, columns, size, more, origin):
    cells = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(rows + 7 * columns))
    extent = (rows + more[0], columns + more[1])
    found = torch.cat([part for _, part in resize_cells(cells, size, extent, origin)], dim=1)
    for y in range(size[0]):
        for x in range(size[1]):
            # Where the pixel's center lies between the centers of cells, the outer ones holding beyond theirs.
            v = min(max((y + 0.5) * extent[0] / size[0] - origin - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * extent[1] / size[1] - origin - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = cells[:, top, left] * (1 - u + left) + cells[:, top, right] * (u - left)
            lower = cells[:, bottom, left] * (1 - u + left) + cells[:, bottom, right] * (u - left)
            expected = upper * (1 - v + top) + lower * (v - top)
            torch.testing.assert_close(found[:, y, x], expected, rtol=1e-4, atol=1e-5)


def test_resize_of_whole_cells_is_the_library_s():
    cells = torch.randn(3, 4, 6)
    expected = F.interpolate(cells[None], (13, 17), mode="bilinear", align_corners=False)[0]
    [(rows, found)] = resize_cells(cells, (13, 17), (4.0, 6.0))
    assert rows == slice(0, 13)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 30.0])
def test_patch_weighted_scores_by_loops(temperature):
    dense = F.normalize(torch.randn(2, 4, 2, 3), dim=1)
    text = F.normalize(torch.randn(5, 4), dim=1)
    found = patch_weighted_scores(dense, text, temperature)
    for b in range(2):
        patches = [dense[b, :, y, x] for y in range(2) for x in range(3)]
        for k in range(5):
            weights = softmax([temperature * float(patch @ text[k]) for patch in patches])
            embedding = sum(weight * patch for weight, patch in zip(weights, patches, strict=True))
            torch.testing.assert_close(found[b, k], embedding @ text[k])


def test_much_temperature_takes_the_best_patch():
    dense = F.normalize(torch.randn(1, 4, 3, 3), dim=1)
    text = F.normalize(torch.randn(2, 4), dim=1)
    best = torch.einsum("chw,kc->khw", dense[0], text).flatten(1).amax(dim=1)
    torch.testing.assert_close(patch_weighted_scores(dense, text, 1e5)[0], best)


def test_confident_classes():
    probabilities = torch.tensor([[[0.6, 0.1]], [[0.3, 0.5]], [[0.1, 0.4]]])
    assert confident_classes(probabilities, 0.5).tolist() == [True, True, False]
    assert confident_classes(probabilities, 0.55).tolist() == [True, False, False]
    assert confident_classes(probabilities, 0.9).tolist() == [True, True, True]  # rather all than none
