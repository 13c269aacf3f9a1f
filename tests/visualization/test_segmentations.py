"""Segmentations side by side: the colors of the labels' classes, and of everything else."""

import numpy as np
import pytest
import torch

from clipself_d2.visualization import compare_segmentations
from clipself_d2.visualization.colors import class_colors

NAMES = ["sky", "lawn", "cat", "dog"]
FIRST, SECOND = class_colors(["lawn", "cat"])
DARK, LIGHT = (60, 60, 60), (235, 235, 235)
WIDTH, GAP = 256, 8


@pytest.fixture
def panels():
    """Two images of 16 x 32 pixels, drawn 8 times as large: a lawn on the left, a cat in the rest but for a corner
    without a label. One model is right but for dogs in the upper half of the first, another finds sky alone."""
    truth = torch.full((16, 32), 1)
    truth[:, 24:], truth[12:, 28:] = 2, -1
    wrong = truth.clone().clamp(min=1)
    wrong[:8] = 3
    image = torch.full((3, 16, 32), 200, dtype=torch.uint8)
    found = {"one": [wrong, truth], "other": [torch.zeros(16, 32, dtype=torch.long)] * 2}
    drawn = np.asarray(compare_segmentations([image, image], [truth, truth], found, NAMES))
    tops = (22 + GAP, 22 + GAP + 128 + 22 + GAP)
    return [[drawn[top : top + 128, GAP + (WIDTH + GAP) * i :][:, :WIDTH] for i in range(4)] for top in tops]


def center(panel, row, column):
    """The color in the middle of a pixel of the 16 x 32."""
    return tuple(panel[8 * row + 4, 8 * column + 4].tolist())


def test_the_columns_are_image_labels_and_models(panels):
    for image, labels, _, other in panels:
        assert center(image, 3, 3) == (200, 200, 200)
        # the lawn is the largest class, and has the first color
        assert center(labels, 3, 3) == FIRST and center(labels, 3, 25) == SECOND and center(labels, 14, 30) == LIGHT
        assert center(other, 3, 3) == center(other, 12, 25) == DARK


def test_classes_that_are_not_in_the_labels_are_dark(panels):
    (_, _, wrong, _), (_, _, right, _) = panels
    assert center(wrong, 3, 3) == DARK and center(wrong, 12, 3) == FIRST and center(wrong, 10, 25) == SECOND
    assert center(right, 3, 3) == FIRST and center(right, 14, 30) == LIGHT


def test_a_class_has_one_color_in_all_rows():
    """The dog is larger in the second image, the cat in both together."""
    image, sky = torch.zeros(3, 4, 8, dtype=torch.uint8), torch.zeros(4, 8, dtype=torch.long)
    truths = [torch.full((4, 8), 2), torch.full((4, 8), 3)]
    truths[1][:, :3] = 2
    drawn = np.asarray(compare_segmentations([image] * 2, truths, {"sky": [sky] * 2}, NAMES))
    left, top, below = GAP + WIDTH + GAP, 22 + GAP, 128 + 22 + GAP
    assert tuple(drawn[top + 9, left + 9]) == tuple(drawn[top + below + 9, left + 9]) == class_colors(["cat", "dog"])[0]
    assert tuple(drawn[top + below + 9, left + 250]) == class_colors(["cat", "dog"])[1]
