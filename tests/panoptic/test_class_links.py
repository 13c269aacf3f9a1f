"""Closed classes linked with those of a vocabulary, against the formula."""

import torch

from clipself_d2.panoptic.class_links import link_classes
from tests.panoptic.words import ROWS, text, vocabulary


def embeddings(classes):
    return text([name for names in classes for name in names])


CLOSED = [["cat", "kitten"], ["dog"], ["wall"]]


def test_the_own_classes_keep_their_scores():
    """Whatever their order, and although cat and dog are alike."""
    links = link_classes(CLOSED, embeddings(CLOSED), vocabulary("wall", "kitten", "dog"), 100.0)
    assert torch.equal(links, torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))


def test_links_are_the_documented_softmax():
    words = vocabulary("cat", "wolf", ["sky", "wall"], background=torch.ones(3))
    links = link_classes(CLOSED, embeddings(CLOSED), words, 7.0)
    cosine = {(a, b): float(text([a])[0] @ text([b])[0]) for a in ROWS for b in ROWS}
    never = float("-inf")
    expected = [
        [1.0, max(cosine["cat", "wolf"], cosine["kitten", "wolf"]), never],
        # No class is called dog: it gives to all; to a class of two names by the better one.
        [cosine["dog", "cat"], cosine["dog", "wolf"], max(cosine["dog", "sky"], cosine["dog", "wall"])],
        [never, cosine["wall", "wolf"], 1.0],
    ]
    torch.testing.assert_close(links, (7 * torch.tensor(expected)).softmax(dim=1))


def test_a_class_lends_most_to_the_closest_stranger():
    links = link_classes(CLOSED, embeddings(CLOSED), vocabulary("cat", "wolf", "wall"), 20.0)
    assert links[1].argmax() == 1  # dog is a wolf rather than a cat
    torch.testing.assert_close(links.sum(dim=1), torch.ones(3))
