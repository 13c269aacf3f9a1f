import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from clipself_d2.detection import matching
from clipself_d2.detection.matching import BoxMatcher
from clipself_d2.detection.rpn import build_rpn
from tests.detection.tiny import match_by_loop

RPN = BoxMatcher(negative=0.3, positive=0.7, best=0.3)
REGIONS = BoxMatcher(negative=0.5, positive=0.5)


def crowded(objects, boxes, seed, grid=None):
    """Objects and boxes that overlap each other, with many equal overlaps if their corners lie on a grid."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(objects + boxes, 2, generator=generator) * 40
    sides = 10 + torch.rand(objects + boxes, 2, generator=generator) * 30
    if grid:
        corners, sides = (corners / grid).round() * grid, (sides / grid).round() * grid
    return torch.cat([corners, corners + sides], dim=1).split([objects, boxes])


@pytest.mark.parametrize("matcher", [RPN, REGIONS, BoxMatcher(0.5, 0.5, best=0.5)], ids=["RPN", "COCO", "LVIS"])
@pytest.mark.parametrize("limit", [2**24, 300])  # with 30 boxes, 10 objects at a time
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), objects=st.integers(1, 20), grid=st.sampled_from([None, 10]))
def test_crowded_boxes_against_a_loop(matcher, limit, seed, objects, grid):
    objects, boxes = crowded(objects, 30, seed, grid)
    overlaps = pairwise_iou(Boxes(objects), Boxes(boxes)).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_MAX_OVERLAPS", limit)
        matches, labels = matcher(objects, boxes)
    wanted = match_by_loop(overlaps, matcher.negative, matcher.positive, matcher.best)
    assert list(zip(matches.tolist(), labels.tolist(), strict=True)) == wanted


def test_an_object_inside_another_gets_anchors_of_its_own():
    """Of the released anchors on 640 x 640 pixels; Detectron2's matcher leaves all of them to the outer object."""
    outer, inner = torch.tensor([[200.0, 200, 330, 330]]), torch.tensor([[214.0, 214, 316, 316]])
    strides = [4, 8, 16, 32, 64]
    anchors = build_rpn(strides, channels=1).anchor_generator([torch.zeros(1, 1, 640 // s, 640 // s) for s in strides])
    boxes = torch.cat([x.tensor for x in anchors])

    def anchors_of_each(matches, labels):
        return matches[labels == 1].bincount(minlength=2).tolist()

    objects = torch.cat([outer, inner])
    detectron2 = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    assert anchors_of_each(*detectron2(pairwise_iou(Boxes(objects), Boxes(boxes)))) == [4, 0]
    assert anchors_of_each(*RPN(objects, boxes)) == [0, 4]
    assert anchors_of_each(*RPN(objects.flip(0), boxes)) == [3, 1]  # the best of both goes to the last object


def test_a_poor_best_box_is_no_match():
    """Where Detectron2's own matcher would take it."""
    objects, boxes = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 10, 2.9], [0, 0, 10, 1]])
    assert RPN(objects, boxes)[1].tolist() == [0, 0]
    assert RPN(objects, torch.tensor([[0.0, 0, 10, 3.1], [0, 0, 10, 1]]))[1].tolist() == [1, 0]
    theirs = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    assert theirs(pairwise_iou(Boxes(objects), Boxes(boxes)))[1].tolist() == [1, 0]


def test_matching_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    for objects in (boxes[:0], torch.tensor([[20.0, 20, 30, 30], [40, 40, 50, 50]])):
        matches, labels = RPN(objects, boxes)
        assert matches.tolist() == [0, 0, 0] and labels.tolist() == [0, 0, 0]
    assert RPN(boxes, boxes[:0])[0].shape == (0,)
