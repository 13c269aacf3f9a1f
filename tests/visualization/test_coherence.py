import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from clipself_d2.evaluation.semantic_coherence import SimilarityHistogram
from clipself_d2.visualization.coherence import _draw_distribution, draw_coherence


def histogram(cosines, together):
    result = SimilarityHistogram()
    result.add(torch.tensor(cosines), torch.tensor(together))
    return result


def test_a_column_per_relation_and_a_row_per_kind():
    some = histogram([0.1, 0.5, 0.2, 0.9], [False, False, True, True])
    one = draw_coherence({"a": {"object": some, "class": some}})
    more = draw_coherence({"a": {"object": some, "class": some}, "b": {"class": some}})
    assert one.mode == "RGB" and one.width == more.width == 2 * 4 * 100
    assert more.height - one.height == 160
    assert np.asarray(one).std() > 10  # something is drawn


def test_what_lacks_pairs_is_not_drawn():
    some, none = histogram([0.1, 0.5], [False, True]), histogram([0.5], [True])
    assert draw_coherence({"a": {"object": some, "class": none}}).width == 4 * 100
    blank = np.asarray(draw_coherence({"a": {"class": some}, "b": {"class": none}}))
    drawn = np.asarray(draw_coherence({"a": {"class": some}, "b": {"class": some}}))
    assert blank.shape == drawn.shape
    assert (blank[-160:] < 128).sum() < (drawn[-160:] < 128).sum()  # the row of b


def test_bars_hold_all_pairs():
    cosines = np.linspace(-0.3, 0.95, 500)
    together = np.arange(500) % 3 == 0
    panel = Figure().subplots()
    _draw_distribution(panel, histogram(cosines, together), "red")
    bars, line = panel.patches[:64], panel.patches[64].get_xy()
    edges = np.array([bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()])
    assert edges[0] == pytest.approx(-0.3, abs=1e-3) and edges[-1] == pytest.approx(0.95, abs=1e-3)
    apart = np.array([bar.get_height() for bar in bars])
    own = np.array([line[2 * i + 1, 1] for i in range(64)])
    np.testing.assert_allclose(own, np.histogram(cosines[together], edges)[0] / together.sum(), atol=0.01)
    np.testing.assert_allclose(apart, np.histogram(cosines[~together], edges)[0] / (~together).sum(), atol=0.01)
    np.testing.assert_allclose([apart.sum(), own.sum()], 1)
