"""Heat maps of words, by one tower or two: which value gets which color."""

import matplotlib
import numpy as np
import torch

from clipself_d2.visualization import heatmaps
from clipself_d2.visualization.figures import figure_to_image
from clipself_d2.vocabulary import Vocabulary

MAPS = {"old": [[[0.0, 0.5]]], "new": [[[0.25, 1.0]]]}
"""Cosines of one word in an image twice as wide as high."""


def test_all_maps_have_one_scale_which_the_color_bar_shows(monkeypatch):
    monkeypatch.setattr(heatmaps, "word_maps", lambda tower, *_: (torch.tensor(MAPS[tower]), (1, 2)))
    image = torch.full((3, 10, 20), 100, dtype=torch.uint8)
    figure = heatmaps.draw_word_maps({name: name for name in MAPS}, Vocabulary(["cat"], torch.eye(1)), image, 8)
    drawn = np.asarray(figure_to_image(figure), dtype=float)
    inferno = matplotlib.colormaps["inferno"]
    for row, values in enumerate(MAPS.values()):
        for column, level in enumerate(values[0][0]):
            y, x = 22 + 8 + 64 + row * (128 + 8), 22 + 8 + 256 + 8 + 64 + 128 * column
            np.testing.assert_allclose(drawn[y, x], 25 + 0.75 * 255 * np.array(inferno(level)[:3]), atol=2)
    bar = drawn[:, 22 + 2 * (256 + 8) + 8 + 4]
    np.testing.assert_allclose(bar[[32, -11]], 255 * np.array([inferno(1.0)[:3], inferno(0.0)[:3]]), atol=9)
    assert {text.get_text() for text in figure.texts} == {"image", "cat", "old", "new"}
    ticks = [float(text.get_text()) for text in figure.axes[-1].get_yticklabels()]
    assert min(ticks) == 0 and max(ticks) == 1


def test_a_class_is_seen_where_the_best_of_its_synonyms_is(monkeypatch):
    """Two cells and two synonyms: each cell is like another one."""

    class Features:
        sizes = ((8.0, 16.0),)
        stride = 8

        def without_padding(self):
            return [torch.eye(2)[:, None]]

    monkeypatch.setattr(heatmaps, "dense_features", lambda *_: Features())
    monkeypatch.setattr(heatmaps, "letterbox_images", lambda *_: None)
    vocabulary = Vocabulary([("cat", "puss"), ("dog",)], torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
    maps, extent = heatmaps.word_maps(None, vocabulary, None, 16)
    assert extent == (1, 2)
    torch.testing.assert_close(maps, torch.tensor([[[1.0, 1.0]], [[0.6, 0.8]]]))
