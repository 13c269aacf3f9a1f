"""Colors of classes, label maps and heat maps: which pixel gets which color."""

import matplotlib
import numpy as np
import torch
from PIL import Image

from clipself_d2.visualization.colors import class_colors, color_labels, distinct_colors, draw_heatmap


def test_colors_differ():
    assert len(set(distinct_colors(120))) == 120
    assert distinct_colors(120)[:20] == distinct_colors(20) and len(distinct_colors(3)) == 3


def test_classes_have_the_colors_that_they_name():
    names = ["Red car", "sky", "dark green leaf", "red bus", "red", "lawn"]
    colors = class_colors(names)
    assert colors[0] == (255, 0, 0) and colors[2] == (0, 128, 0)
    assert [colors[1], colors[5]] == distinct_colors(2)
    assert class_colors(["a", "b", "c", "red thing"])[2] == distinct_colors(4)[3]  # the third is a red
    for red, green, blue in (colors[3], colors[4]):
        assert red > 100 and red > green + 50 and green == blue
    many = class_colors([f"{color} thing {number}" for color in ("red", "white", "black") for number in range(12)])
    assert len(set(many)) == 36


def test_labels_have_the_same_colors_in_every_map():
    small, large = torch.tensor([[0, 1]]), torch.tensor([[1, 4], [0, 3]])
    first, second = color_labels(small), color_labels(large)
    assert first.size == (2, 1) and second.size == (2, 2)
    assert first.getpixel((0, 0)) == second.getpixel((0, 1)) == distinct_colors(5)[0]
    assert first.getpixel((1, 0)) == second.getpixel((0, 0)) == distinct_colors(5)[1]


def test_a_heatmap_blends_the_color_of_each_value():
    values = torch.tensor([[-1.0, 0.0], [1.0, 3.0]])
    drawn = np.asarray(draw_heatmap(Image.new("RGB", (4, 4), (100, 100, 100)), values), dtype=float)
    inferno = matplotlib.colormaps["inferno"]
    for (y, x), level in {(0, 0): 0.0, (0, 3): 0.25, (3, 0): 0.5, (3, 3): 1.0}.items():
        np.testing.assert_allclose(drawn[y, x], 0.25 * 100 + 0.75 * 255 * np.array(inferno(level)[:3]), atol=1.5)
    draw_heatmap(Image.new("RGB", (2, 1)), torch.zeros(1, 2))  # a flat map has no range
