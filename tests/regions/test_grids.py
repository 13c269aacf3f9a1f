import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions, grid_boxes, grid_shapes


def test_released_rule_has_the_24_aspect_limited_pairs():
    listed = {
        (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6), (4, 2), (4, 3),
        (4, 4), (4, 5), (4, 6), (5, 3), (5, 4), (5, 5), (5, 6), (6, 3), (6, 4), (6, 5), (6, 6),
    }  # fmt: skip
    assert len(grid_shapes(6, "released")) == 24
    assert set(grid_shapes(6, "released")) == listed


def test_paper_rule_has_every_pair():
    assert set(grid_shapes(4, "paper")) == {(m, n) for m in (1, 2, 3, 4) for n in (1, 2, 3, 4)}


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 700), st.integers(1, 700))
def test_cells_partition_the_image(rows, columns, height, width):
    boxes = grid_boxes(rows, columns, height, width)
    assert boxes.shape == (rows * columns, 4)
    grid = boxes.view(rows, columns, 4)
    assert (grid[:, 0, 0] == 0).all() and (grid[0, :, 1] == 0).all()
    assert (grid[:, -1, 2] == width).all() and (grid[-1, :, 3] == height).all()
    assert torch.equal(grid[:, 1:, 0], grid[:, :-1, 2]) and torch.equal(grid[1:, :, 1], grid[:-1, :, 3])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum().item()
    assert area == pytest.approx(height * width, rel=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["released", "paper"]), st.integers(1, 8), st.integers(1, 40))
def test_sample_is_a_subset_of_one_grid(seed, rule, max_split, max_regions):
    boxes, _, _ = GridRegions(max_split, rule, max_regions)(7, 480, 640, np.random.default_rng(seed))
    assert 1 <= len(boxes) <= max_regions
    assert len(boxes.unique(dim=0)) == len(boxes)
    matches = [
        shape
        for shape in grid_shapes(max_split, rule)
        if len(boxes) == min(max_regions, shape[0] * shape[1])
        and {tuple(b) for b in boxes.tolist()} <= {tuple(b) for b in grid_boxes(*shape, 480, 640).tolist()}
    ]
    assert matches


def test_pairs_and_cells_are_drawn_evenly():
    regions, rng = GridRegions(), np.random.default_rng(0)
    counts = np.bincount([len(regions(7, 60, 60, rng)[0]) for _ in range(4000)], minlength=21)
    # Only (1, 1) gives one region; the grids of 20 cells and more, seven of the 24, give 20.
    assert counts[1] == pytest.approx(4000 / 24, rel=0.25)
    assert counts[20] == pytest.approx(4000 * 8 / 24, rel=0.1)
    first = np.mean([regions(7, 60, 60, rng)[0][0, 0].item() == 0 for _ in range(2000)])
    assert 0.2 < first < 0.45  # shuffled: the first is not always the top left


def test_same_generator_same_regions():
    draws = [GridRegions()(7, 100, 200, np.random.default_rng(3)) for _ in range(2)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][0], draws[0][1])


def test_every_crop_that_may_be_drawn():
    regions, rng = GridRegions(), np.random.default_rng(0)
    every, numbers = regions.all_crops(7, 480, 640)
    listed = {tuple(box) for shape in grid_shapes(6) for box in grid_boxes(*shape, 480, 640).tolist()}
    assert {tuple(box) for box in every.tolist()} == listed
    assert len(every) == len(listed) == regions.num_crops(7) == 361
    assert numbers.tolist() == list(range(361))
    for _ in range(30):
        _, crops, drawn = regions(7, 480, 640, rng)
        assert torch.equal(crops, every[drawn])


@pytest.mark.parametrize("arguments", [{"rule": "other"}, {"max_split": 0}, {"max_regions": 0}])
def test_wrong_arguments(arguments):
    with pytest.raises(InputError):
        GridRegions(**arguments)
