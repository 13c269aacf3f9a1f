import numpy as np
import torch

from clipself_d2.evaluation.semantic_coherence import SimilarityHistogram
from clipself_d2.visualization import draw_coherence
from clipself_d2.visualization.coherence import _bars


def histogram(cosines, together):
    result = SimilarityHistogram()
    result.add(torch.tensor(cosines), torch.tensor(together))
    return result


def test_a_column_a_relation_and_a_row_a_kind():
    some = histogram([0.1, 0.5, 0.2, 0.9], [False, False, True, True])
    one = draw_coherence({"a": {"object": some, "class": some}}, dots_per_inch=40)
    more = draw_coherence({"a": {"object": some, "class": some}, "b": {"class": some}}, dots_per_inch=40)
    assert one.mode == "RGB" and one.width == more.width == 2 * 4 * 40
    assert more.height - one.height == round(1.6 * 40)
    assert np.asarray(one).std() > 10  # something is drawn


def test_what_lacks_pairs_is_not_drawn():
    some, none = histogram([0.1, 0.5], [False, True]), histogram([0.5], [True])
    assert draw_coherence({"a": {"object": some, "class": none}}, dots_per_inch=40).width == 4 * 40
    blank = np.asarray(draw_coherence({"a": {"class": some}, "b": {"class": none}}, dots_per_inch=40))
    drawn = np.asarray(draw_coherence({"a": {"class": some}, "b": {"class": some}}, dots_per_inch=40))
    assert blank.shape == drawn.shape
    assert (blank[-64:] < 128).sum() < (drawn[-64:] < 128).sum()  # the row of b


def test_bars_hold_all_pairs():
    cosines = np.linspace(-0.3, 0.95, 500)
    together = np.arange(500) % 3 == 0
    low, high, apart, own = _bars(histogram(cosines, together))
    edges = np.linspace(low, high, 65)
    assert low <= -0.3 and high >= 0.95 and len(own) == 64
    np.testing.assert_allclose(own, np.histogram(cosines[together], edges)[0] / together.sum(), atol=0.01)
    np.testing.assert_allclose(apart, np.histogram(cosines[~together], edges)[0] / (~together).sum(), atol=0.01)
    np.testing.assert_allclose([apart.sum(), own.sum()], 1)
