"""Predictions over images: which pixels change, and to what color."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from clipself_d2.visualization import draw_predictions
from clipself_d2.visualization.colors import class_colors
from clipself_d2.visualization.predictions import draw_boxes, free_spot

NAMES, IS_BASE = ["lawn", "fire"], [True, False]  # blue and orange


def gray(height, width):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def instances(image, boxes, scores, classes):
    found = Instances(tuple(image.shape[1:]))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.long)
    return {"instances": found}


def where(drawn, color):
    """Where the image has nearly a color."""
    return np.abs(np.asarray(drawn, dtype=float) - np.array(color)).max(axis=-1) < 25


def test_boxes_have_the_colors_of_their_classes_and_those_of_base_classes_are_dashed():
    image = gray(600, 800)
    found = instances(image, [[100, 200, 400, 450], [500, 300, 700, 500]], [0.9, 0.8], [0, 1])
    drawn = draw_predictions(image, found, NAMES, IS_BASE)
    assert drawn.size == (800, 600)
    for color, (x0, y0, x1, y1) in zip(class_colors(NAMES), ((100, 200, 400, 450), (500, 300, 700, 500)), strict=True):
        mask = where(drawn, color)
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([columns.min(), columns.max(), rows.max()], [x0, x1, y1], atol=3)
        assert not mask[y0 + 50 : y1 - 10, x0 + 10 : x1 - 10].any()
    assert (image == 90).all()  # the input is untouched


def test_small_images_are_enlarged_by_a_whole_factor():
    image = gray(96, 128)
    drawn = draw_predictions(image, instances(image, [[10, 20, 40, 60]], [0.9], [1]), NAMES, IS_BASE)
    rows, columns = np.nonzero(where(drawn, class_colors(NAMES)[1]))
    assert drawn.size == (640, 480)
    np.testing.assert_allclose([columns.min(), rows.max()], [50, 300], atol=4)


def test_a_thing_is_not_drawn_in_another_color_than_its_name_says():
    image = gray(700, 700)
    found = instances(image, [[100, 100, 300, 300]], [0.9], [1])
    drawn = draw_predictions(image, found, ["lawn", "green"], [True, False])
    assert where(drawn, (0, 128, 0))[120:300, 100].all()


def test_a_label_goes_where_it_covers_least():
    size, frame = np.array([30.0, 10]), np.array([100.0, 100])
    spots = np.array([[0.0, 0], [50, 50], [90, 95]])
    taken = np.array([[0.0, 0, 20, 20], [45, 45, 55, 55]])  # the first covers 200 of the first spot, the second 25
    assert free_spot(size, spots, np.zeros((0, 4)), frame).tolist() == [0, 0]
    assert free_spot(size, spots, taken, frame).tolist() == [70, 90]  # into the frame
    assert free_spot(size, spots[:2], taken, frame).tolist() == [50, 50]


def test_labels_of_one_place_do_not_bury_each_other():
    """Their background is nearly black, and twice as much of it for two labels."""
    image, box = gray(700, 700), torch.tensor([[200.0, 200, 500, 500]])
    one = np.asarray(draw_boxes(image, box, ["a word"], ["red"])).max(axis=-1) < 30
    two = np.asarray(draw_boxes(image, box.expand(2, 4), ["a word"] * 2, ["red"] * 2)).max(axis=-1) < 30
    assert two.sum() > 1.9 * one.sum() > 0


def test_boxes_below_the_threshold_are_not_drawn():
    image = gray(700, 700)
    found = instances(image, [[100, 100, 300, 300]], [0.3], [0])
    blank = np.asarray(draw_predictions(image, found, NAMES, IS_BASE, threshold=0.31))
    assert (blank == 90).all()
    assert (np.asarray(draw_predictions(image, found, NAMES, IS_BASE, threshold=0.29)) != 90).any()


def test_segments_have_the_color_of_their_class_and_nothing_else_is_painted():
    image = gray(640, 640)
    ids = torch.zeros(640, 640, dtype=torch.long)
    ids[:200, :300], ids[:200, 320:620], ids[300:500] = 1, 2, 3
    kinds = [{"isthing": True, "category_id": 1}] * 2 + [{"isthing": False, "category_id": 0}]
    segments = [{"id": i, "score": 0.5, **kind} for i, kind in enumerate(kinds, 1)]
    drawn = np.asarray(draw_predictions(image, {"panoptic_seg": (ids, segments)}, NAMES, IS_BASE), dtype=float)
    colors = class_colors(NAMES)
    for (row, column), k in (((30, 30), 1), ((30, 340), 1), ((320, 100), 0)):
        np.testing.assert_allclose(drawn[row, column], 0.45 * 90 + 0.55 * np.array(colors[k]), atol=3)
    assert (drawn[600] == 90).all()


@pytest.mark.parametrize("size", [(1, 1), (3000, 30), (30, 3000), (700, 3)])
@pytest.mark.parametrize("boxes", [[], [[0, 0, 1, 1]], [[-5, -5, 0, 0]]])
def test_images_of_any_shape(size, boxes):
    image = gray(*size)
    found = instances(image, boxes, [0.9] * len(boxes), [0] * len(boxes))
    assert draw_predictions(image, found, NAMES, IS_BASE).width >= size[1]
    nothing = {"panoptic_seg": (torch.zeros(size, dtype=torch.long), [])}
    assert draw_predictions(image, nothing, NAMES, IS_BASE).height >= size[0]
