"""Closed classes linked with those of a vocabulary, against the formula."""

import pytest
import torch

from clipself_d2.panoptic.class_links import PARTNERS, link_classes, same_classes
from clipself_d2.vocabulary import label_set
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


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("coco_panoptic", {"orange": ["orange fruit"], "light": ["lamp", "bulb"], "net": ["tennis net"]}),
        ("coco_panoptic", {"playing field": ["playingfield", "tennis court"]}),
        ("ade20k_150", {"house": ["house exterior"], "light": ["light bulb", "bulb"], "fan": ["ceiling fan"]}),
        (
            "pascal_context_59",
            {"potted plant": ["pottedplant", "plant pot"], "road": ["street"], "wood": ["wood piece"]},
        ),
    ],
)
def test_names_of_odise_and_fc_clip_find_their_class(ours, theirs):
    """ODISE and FC-CLIP name these classes otherwise."""
    classes = label_set(ours)
    others = [theirs.get(synonyms[0], synonyms) for synonyms in classes]
    assert others != classes
    assert torch.equal(same_classes(others, classes), torch.eye(len(classes), dtype=torch.bool))


def test_partners_are_only_those_of_classes_without_a_namesake():
    """COCO's light is ODISE's lamp; ADE20K has both."""
    assert same_classes([["light"]], [["lamp", "lamps"]]).tolist() == [[True]]
    assert same_classes([["blind", "screen"]], [["window screen", "door screen"]]).tolist() == [[True]]
    assert same_classes([["light"], ["lamp"]], [["lamp"], ["light bulb"]]).tolist() == [[False, True], [True, False]]
    assert same_classes([["light"]], [["light"], ["lamp"]]).tolist() == [[True, False]]
    assert not same_classes([["mirror"]], [["lamp"], ["fan"]]).any()


def test_the_table_of_partners_names_no_class_twice():
    names = [name for group in PARTNERS for name in group]
    assert len(set(names)) == len(names)


def test_of_several_namesakes_the_closest_is_the_partner():
    lists = [["earth", "ground"], ["land", "ground", "soil"]], [["land", "ground", "soil"], ["earth", "ground"]]
    assert same_classes(*lists).tolist() == [[False, True], [True, False]]
    # One class of two that the other list tells apart, and the other way round.
    assert same_classes([["cat", "kitty"]], [["cat"], ["kitty"]]).tolist() == [[True, True]]
    assert same_classes([["dog"], ["grass", "lawn"]], [["dog", "grass"]]).tolist() == [[True], [True]]
