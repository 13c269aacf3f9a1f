import numpy as np
import pytest
import torch

from clipself_d2.visualization import compare_segmentations
from clipself_d2.visualization.drawing import colours

NAMES = ["sky", "lawn", "cat", "dog"]
FIRST, SECOND = colours(2)


@pytest.fixture
def drawn():
    """Two photographs of 20 x 40 pixels, doubled: a lawn on the left, a cat in the rest but for a corner without a
    label; one model is right but for dogs in the upper half, another finds sky alone."""
    truth = torch.full((20, 40), 1)
    truth[:, 30:], truth[15:, 35:] = 2, -1
    wrong = truth.clone().clamp(min=1)
    wrong[:10] = 3
    image = torch.full((3, 20, 40), 200, dtype=torch.uint8)
    found = {"one": [wrong, truth.clamp(min=0)], "other": [torch.zeros(20, 40, dtype=torch.long)] * 2}
    picture = compare_segmentations([image, image], [truth, truth], found, NAMES, width=80)
    return np.asarray(picture).astype(int)


def places(drawn, colour):
    return (drawn == colour).all(axis=-1)


def test_a_colour_is_a_class_of_the_labels(drawn):
    """The widest class has the first colour; the labels show it as often as the model that is right."""
    columns = places(drawn, FIRST).sum(axis=0)
    # image, labels, one, other: each 80 wide; in the labels' column 60 of 80 pixels are lawn, in both rows
    (labels,) = [x for x in np.flatnonzero(np.diff((columns >= 80).astype(int)) == 1) if columns[x + 30] >= 80][:1]
    assert (columns[labels + 1 : labels + 61] >= 2 * 40).all() and columns[labels + 62 : labels + 80].max() < 40
    # the first model: half of it in the first row, all of it in the second
    start = labels + 1 + 88
    assert (columns[start : start + 60] >= 20 + 40).all() and (columns[start : start + 60] < 80).all()


def test_what_is_not_in_the_labels_is_dark_and_no_label_light(drawn):
    dark, light = places(drawn, (60, 60, 60)), places(drawn, (235, 235, 235))
    # dogs: 20 x 80 of the first row; sky: 40 x 80 of both rows; legend squares and letters besides
    panels = 20 * 80 + 2 * 40 * 80
    second = 10 * 10  # in the second row the first model finds sky where there is no label
    assert panels + second <= dark.sum() <= panels + second + 2 * 13 * 13 + 400
    assert 2 * 10 * 10 <= light.sum() <= 2 * 10 * 10 + 100  # and rims of letters


def test_the_legend_is_below_each_row(drawn):
    rows = np.flatnonzero(places(drawn, SECOND).any(axis=1))
    assert len(np.flatnonzero(np.diff(rows) > 1)) >= 3  # maps, legend, maps, legend
