"""Against a loop over images, classes and locations."""

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.semantic.cost import at_classes, class_embeddings, cost_volume, likely_classes, to_all_classes
from clipself_d2.vocabulary import Vocabulary

DENSE = F.normalize(torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1)), dim=1)
ROWS = torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
CLASSES = [["cat"], ["sofa", "couch"], ["tv", "telly"]]


def test_costs_are_cosines():
    names = list("abcde")
    cost = cost_volume(DENSE, Vocabulary(names, ROWS, background=torch.ones(5)))
    assert cost.shape == (2, 5, 3, 4)
    for b in range(2):
        for k in range(5):
            for y in range(3):
                for x in range(4):
                    v = DENSE[b, :, y, x]
                    expected = float(v @ ROWS[k]) / float(v.norm() * ROWS[k].norm())
                    assert float(cost[b, k, y, x]) == pytest.approx(expected, abs=1e-5)


def test_the_best_synonym_counts_and_texts_are_averaged():
    vocabulary = Vocabulary(CLASSES, ROWS)
    unit = ROWS / ROWS.norm(dim=1, keepdim=True)
    single = torch.einsum("bchw,kc->bkhw", DENSE, unit)
    cost = cost_volume(DENSE, vocabulary)
    assert torch.allclose(cost[:, 0], single[:, 0], atol=1e-6)
    assert torch.allclose(cost[:, 1], torch.maximum(single[:, 1], single[:, 2]), atol=1e-6)
    texts = class_embeddings(vocabulary)
    mean = (unit[3] + unit[4]) / 2
    assert torch.allclose(texts[2], mean / mean.norm(), atol=1e-6)


def test_likely_classes_are_those_with_the_highest_peak():
    cost = torch.zeros(2, 4, 2, 2)
    cost[0, 2, 0, 1], cost[0, 0, 1, 1], cost[1, 3], cost[1, 1, 0, 0] = 0.9, 0.5, 0.1, 0.8
    assert likely_classes(cost, 2).tolist() == [[0, 2], [1, 3]]


def test_scores_return_to_the_places_of_their_classes():
    values, classes = torch.randn(2, 6, 3, 3), torch.tensor([[1, 4], [0, 5]])
    chosen = at_classes(values, classes)
    assert torch.equal(chosen[1, 1], values[1, 5])
    back = to_all_classes(chosen, classes, 6, -7.0)
    for b in range(2):
        for k in range(6):
            expected = values[b, k] if k in classes[b] else torch.full((3, 3), -7.0)
            assert torch.equal(back[b, k], expected)
