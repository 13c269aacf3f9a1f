import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.regions import ProposalRegions, enlarge, load_proposals


def write(path, annotations, images=None):
    content = {"annotations": [{"image_id": i, "bbox": b, "category_id": 1} for i, b in annotations]}
    if images is not None:
        content["images"] = images
    path.write_text(json.dumps(content))
    return path


IMAGES = [{"id": 1, "width": 100, "height": 80}, {"id": 2, "width": 50, "height": 50}]


def test_boxes_come_by_image_in_order(tmp_path):
    file = write(tmp_path / "p.json", [(2, [1, 2, 10, 20]), (1, [0, 0, 5, 5]), (2, [3, 3, 4.5, 4])], IMAGES)
    proposals = load_proposals(file)
    assert sorted(proposals) == [1, 2]
    np.testing.assert_array_equal(proposals[2], [[1, 2, 11, 22], [3, 3, 7.5, 7]])


@pytest.mark.parametrize("images", [None, IMAGES])
def test_empty_file_gives_no_proposals(tmp_path, images):
    assert load_proposals(write(tmp_path / "p.json", [], images)) == {}
    with pytest.raises(InputError, match=r"p\.json.*no usable proposal"):
        ProposalRegions(tmp_path / "p.json")


def test_useless_boxes_are_left_out_and_counted(tmp_path, caplog):
    boxes = [[0, 0, 10, 10], [5, 5, 0, 9], [5, 5, -3, 9], [200, 10, 20, 20], [-30, 0, 20, 20], [-5, -5, 20, 20]]
    with caplog.at_level(logging.WARNING):
        proposals = load_proposals(write(tmp_path / "p.json", [(1, b) for b in boxes], IMAGES))
    np.testing.assert_array_equal(proposals[1], [[0, 0, 10, 10], [-5, -5, 15, 15]])
    assert "4 of 6 boxes" in caplog.text


def test_unknown_images_are_named(tmp_path, caplog):
    file = write(tmp_path / "p.json", [(1, [0, 0, 9, 9]), (77, [0, 0, 9, 9])], IMAGES)
    with pytest.raises(InputError, match=r"p\.json.*77"):
        load_proposals(file)
    file = write(tmp_path / "q.json", [(1, [0, 0, 9, 9]), (2, [0, 0, 9, 9])])
    with pytest.raises(InputError, match=r"q\.json.*\(2\)"):
        load_proposals(file, image_ids=[1])
    with pytest.raises(InputError, match=r"q\.json.*\(1\)"):
        ProposalRegions(file).check({2, 3})
    with caplog.at_level(logging.WARNING):
        ProposalRegions(file).check({1, 2, 3})
    assert "no proposal for 1 of 3 images" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"annotations": [{"image_id": 1}]}',
        '{"annotations": [{"image_id": 1, "bbox": 3}]}',
        '{"annotations": [], "images": [{"width": 3}]}',
        '{"annotations": [], "images": ["1.jpg"]}',
    ],
)
def test_other_formats_are_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p\.json"):
        load_proposals(tmp_path / "p.json")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.json"):
        load_proposals(tmp_path / "none.json")


def draw(boxes, height, width, rng, **options):
    """The regions that are drawn of an image with these proposals."""
    annotations = [(1, [x0, y0, x1 - x0, y1 - y0]) for x0, y0, x1, y1 in boxes]
    with tempfile.TemporaryDirectory() as folder:
        regions = ProposalRegions(write(Path(folder) / "p.json", annotations), **options)
    return regions(1, height, width, rng)[0]


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 25))
def test_cut_comes_before_the_size_filter(seed, count, max_regions):
    # Every second box is too small; were the filter first, the number left would not vary.
    boxes = [[i, 0, i + (20 if i % 2 else 3), 9] for i in range(count)]
    drawn = draw(boxes, 100, 100, np.random.default_rng(seed), max_regions=max_regions)
    order = np.random.default_rng(seed).permutation(count)[:max_regions]
    # where nothing is left, a box at the top left takes its place
    assert [b[0] for b in drawn.tolist()] == ([i for i in order if i % 2] or [0])


def test_no_region_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="max_regions is 0"):
        ProposalRegions(write(tmp_path / "p.json", [(1, [0, 0, 9, 9])]), max_regions=0)


def test_sizes_are_limits_of_the_area():
    boxes = [[0, 0, 8, 8], [0, 0, 7.9, 8], [0, 0, 1024, 1024], [0, 0, 1025, 1024]]
    drawn = draw(boxes, 2000, 2000, np.random.default_rng(0))
    assert sorted(drawn[:, 2].tolist()) == [8, 1024]


def test_the_area_is_that_of_the_whole_box():
    """As in the released code, whose boxes are clipped later or never."""
    boxes = [[-10, 0, 2, 12], [0, 0, 8.5, 7], [90, 0, 90 + 1100, 1000]]
    assert draw(boxes, 1000, 1000, np.random.default_rng(0)).tolist() == [[0, 0, 2, 12]]


def test_boxes_are_clipped_and_outer_ones_dropped():
    boxes = [[-10, -10, 20, 30], [90, 70, 130, 120], [200, 200, 300, 300]]
    drawn = draw(boxes, 80, 100, np.random.default_rng(0), min_size=0)
    assert sorted(drawn.tolist()) == [[0, 0, 20, 30], [90, 70, 100, 80]]


def test_enlarged_crop():
    crop = enlarge(torch.tensor([[40.0, 30.0, 60.0, 40.0], [0.0, 0.0, 20.0, 20.0]]), 1.5, 80, 100)
    assert crop.tolist() == [[35.0, 27.5, 65.0, 42.5], [0.0, 0.0, 25.0, 25.0]]


def test_fallback_is_a_box_at_the_top_left(tmp_path):
    regions = ProposalRegions(write(tmp_path / "p.json", [(1, [0, 0, 3, 3])], IMAGES))
    for image in (1, 2):  # one with boxes that are too small, one without any
        boxes, crops, numbers = regions(image, 81, 102, np.random.default_rng(0))
        assert boxes.tolist() == [[0, 0, 25.5, 20.25]]
        assert crops.tolist() == [[0, 0, 25, 20]]
        assert numbers.tolist() == [regions.num_crops(image) - 1] == [2 - image]


def test_student_gets_the_box_and_the_teacher_a_wider_crop(tmp_path):
    regions = ProposalRegions(write(tmp_path / "p.json", [(1, [40, 30, 20, 10])], IMAGES))
    boxes, crops, numbers = regions(1, 80, 100, np.random.default_rng(0))
    assert numbers.tolist() == [0]
    assert boxes.tolist() == [[40, 30, 60, 40]]
    assert crops.tolist() == [[35, 27.5, 65, 42.5]]


def test_every_crop_that_may_be_drawn(tmp_path):
    boxes = [(1, [2 * i, i, 3 if i % 3 == 0 else 20, 9]) for i in range(6)]  # every third is too small
    for max_regions, may_fall_back in ((20, False), (3, False), (2, True)):
        regions = ProposalRegions(write(tmp_path / "p.json", boxes, IMAGES), max_regions=max_regions)
        crops, numbers = regions.all_crops(1, 80, 100)
        every = dict(zip(numbers.tolist(), map(tuple, crops.tolist()), strict=True))
        rng, drawn = np.random.default_rng(0), {}
        for _ in range(150):
            _, crops, numbers = regions(1, 80, 100, rng)
            drawn.update(zip(numbers.tolist(), map(tuple, crops.tolist()), strict=True))
        assert drawn == every
        assert (every.get(6) == (0, 0, 25, 20)) == may_fall_back
        assert regions.num_crops(1) == 7
    crops, numbers = regions.all_crops(2, 80, 100)
    assert crops.tolist() == [[0, 0, 25, 20]] and numbers.tolist() == [0]
