"""Colors of classes, label maps and heat maps: which pixel gets which color."""

import matplotlib
import numpy as np
import torch
from PIL import Image

from clipself_d2.visualization.colors import color_labels, distinct_colors, draw_heatmap


def test_colors_differ():
    assert len(set(distinct_colors(120))) == 120
    assert distinct_colors(120)[:20] == distinct_colors(20) and len(distinct_colors(3)) == 3


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
