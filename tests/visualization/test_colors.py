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
    names = ["Red car", "sky", "dark green leaf", "red bus", "Red", "lawn"]
    colors = class_colors(names)
    assert colors[4] == (255, 0, 0) and class_colors(["green", "white"]) == [(0, 128, 0), (255, 255, 255)]
    for red, green, blue in (colors[0], colors[3], colors[4]):
        assert red > 100 and red > green + 50 and green == blue
    assert colors[2][1] > colors[2][0] + 50 and colors[2][0] == colors[2][2]
    assert {colors[1], colors[5]} <= set(distinct_colors(10))
    many = class_colors([f"{color} thing {number}" for color in ("red", "white", "black") for number in range(12)])
    assert len(set(many)) == 36
    assert len(set(class_colors([f"thing {number}" for number in range(100)]))) == 100


def test_a_name_has_one_color_in_all_calls():
    names = ["cat", "red car", "tree", "Blue bus", "fire", "red", "road"]
    alone = {name: class_colors([name])[0] for name in names}
    for calls in (names, names[::-1], ["sky", *names[:3]]):
        seen = []
        for name, color in zip(calls, class_colors(calls), strict=True):
            like_said = [alone[other] for other in calls if other in ("red car", "Blue bus", "red") and other != name]
            said = name in ("red car", "Blue bus", "red")
            if name in alone and color != alone[name]:  # an earlier name has it, or one that says a color
                near = [sum(abs(a - b) for a, b in zip(alone[name], other, strict=True)) < 150 for other in like_said]
                assert alone[name] in seen or (not said and any(near))
            seen.append(color)
        assert len(set(seen)) == len(calls)
    more = [*names, *(f"word {number}" for number in range(50))]
    assert class_colors(more)[: len(names)] == class_colors(names)  # those named first are fixed
    assert sum(color == alone[name] for color, name in zip(class_colors(names), names, strict=True)) >= 5


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
