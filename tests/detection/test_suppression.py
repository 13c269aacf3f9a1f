"""Suppression of a batch against a loop over images, classes and boxes."""

import pytest
import torch
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import box_iou

from clipself_d2.detection import build_rpn, suppression
from clipself_d2.detection.suppression import select_detections, suppress
from tests.second_device import SecondDevice


def random_boxes(count, side=100.0):
    corners = torch.rand(count, 2) * side / 2
    return torch.cat([corners, corners + 4 + torch.rand(count, 2) * side / 2], dim=1)


def suppress_by_loop(boxes, scores, threshold):
    """The kept indices, best first; of equal scores the first."""
    overlaps = box_iou(boxes, boxes).tolist()
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlaps[i][j] <= threshold for j in kept):
            kept.append(i)
    return kept


def detect_by_loop(boxes, scores, size, score_thresh, nms_thresh, most):
    """(score, class, box) of the detections of an image."""
    height, width = size
    boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    found = []
    for label in range(scores.shape[1]):
        rows = [i for i, score in enumerate(scores[:, label].tolist()) if score > score_thresh]
        kept = suppress_by_loop(boxes[rows], scores[rows, label].tolist(), nms_thresh)
        found += [(scores[rows[i], label].item(), label, boxes[rows[i]].tolist()) for i in kept]
    return sorted(found, reverse=True)[: most if most >= 0 else None]


def as_tuples(detections):
    columns = detections.scores.tolist(), detections.pred_classes.tolist(), detections.pred_boxes.tensor.tolist()
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("most", [5, -1])
@pytest.mark.parametrize("counts", [(30, 17, 0, 1), (0, 0), (150, 90)])
def test_detections_are_those_of_a_loop(counts, most, device):
    sizes = [(90, 60.5), (70, 100), (100, 100), (50, 50)][: len(counts)]
    boxes, scores = [random_boxes(n) for n in counts], [torch.rand(n, 7) ** 4 for n in counts]
    with SecondDevice():
        found = select_detections([b.to(device) for b in boxes], [s.to(device) for s in scores], sizes, 0.05, 0.4, most)
    for detections, b, s, size in zip(found, boxes, scores, sizes, strict=True):
        assert detections.image_size == size
        assert as_tuples(detections) == detect_by_loop(b, s, size, 0.05, 0.4, most)


@pytest.mark.parametrize("limit", [1, 20, 100])
@pytest.mark.parametrize("levels", [1000, 4])
def test_the_limit_of_candidates_changes_no_detection(limit, levels, monkeypatch):
    """Few of the best candidates survive, because they overlap each other; with 4 levels, many scores are equal."""
    corners = torch.rand(2, 40, 2) * 20
    boxes, scores = torch.cat([corners, corners + 50], dim=2), (torch.rand(2, 40, 6) * levels).round() / levels
    arguments = (list(boxes), list(scores), [(112, 112)] * 2, 0.1, 0.4, 30)
    everything = select_detections(*arguments)
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", limit)
    for found, expected in zip(select_detections(*arguments), everything, strict=True):
        assert as_tuples(found) == as_tuples(expected) and 5 <= len(found) < 30


def test_no_more_candidates_than_the_limit(monkeypatch):
    seen = []
    monkeypatch.setattr(suppression, "suppress", lambda *args: seen.append(args[1]) or suppress(*args))
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", 25)
    scores = torch.rand(30, 4)
    select_detections([random_boxes(30)], [scores], [(100, 100)], 0.0, 1.0, 20)
    [[candidates]] = seen
    best = sorted(scores.flatten().tolist(), reverse=True)[:25]
    assert sorted(candidates[candidates > 0].tolist(), reverse=True) == best


def test_rows_that_are_not_finite_are_left_out():
    boxes, scores = random_boxes(6), torch.rand(6, 2)
    broken, wrong = boxes.clone(), scores.clone()
    broken[1, 2], wrong[3, 0] = torch.inf, torch.nan
    [found] = select_detections([broken], [wrong], [(100, 100)], 0.0, 0.4, 100)
    rows = [0, 2, 4, 5]
    assert as_tuples(found) == detect_by_loop(boxes[rows], scores[rows], (100, 100), 0.0, 0.4, 100)


def test_boxes_without_area_take_a_place_and_are_left_out():
    boxes = torch.tensor([[0.0, 0, 9, 9], [120, 0, 130, 9], [20, 0, 29, 9], [40, 5, 50, 5], [40, 0, 49, 9]])
    scores = torch.tensor([[0.5], [0.9], [0.8], [0.7], [0.6]])
    [found] = select_detections([boxes], [scores], [(100, 100)], 0.0, 0.4, 4)
    assert as_tuples(found) == [(pytest.approx(0.8), 0, [20, 0, 29, 9]), (pytest.approx(0.6), 0, [40, 0, 49, 9])]


def test_many_classes_lie_apart():
    """Moved apart in float32 by 600 x 8 x 1,000 pixels, boxes would be rounded to half pixels."""
    boxes = random_boxes(4).repeat(2, 1)[None].repeat(8, 1, 1)
    boxes[..., 2:] += 900
    scores, classes = torch.rand(8, 8), torch.arange(8).repeat(8, 1) % 4 + 600
    with SecondDevice():
        kept, counts = (x.cpu() for x in suppress(boxes.cuda(), scores.cuda(), classes.cuda(), 0.99999, 8))
    for b, s, c, k, n in zip(boxes, scores, classes, kept, counts, strict=True):
        expected = [i for label in range(600, 604) for i in _of_class(b, s, c, label)]
        assert sorted(k[:n].tolist()) == sorted(expected)


def _of_class(boxes, scores, classes, label):
    rows = [i for i, each in enumerate(classes.tolist()) if each == label]
    return [rows[i] for i in suppress_by_loop(boxes[rows], scores[rows].tolist(), 0.99999)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_those_of_a_loop_over_images_and_levels(training, device, storage):
    rpn = build_rpn([4, 8], 4, anchor_scale=4, pre_nms_topk=(60, 50), post_nms_topk=(30, 20)).train(training)
    nn.init.normal_(rpn.rpn_head.objectness.weight, std=1)
    nn.init.normal_(rpn.rpn_head.deltas.weight, std=0.3)
    before, after = (60, 30) if training else (50, 20)
    features = {"p2": torch.randn(2, 4, 8, 8), "p3": torch.randn(2, 4, 4, 4)}
    levels = list(features.values())
    logits, deltas = rpn.rpn_head(levels)
    logits = [x.detach().permute(0, 2, 3, 1).flatten(1) for x in logits]
    deltas = [x.detach().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
    anchors, sizes = rpn.anchor_generator(levels), [(32, 32), (20, 30)]
    with SecondDevice():
        moved = [[x.to(device) for x in each] for each in (anchors, logits, deltas)]
        found = [proposals.to("cpu") for proposals in rpn.predict_proposals(*moved, sizes)]
    for image, ((height, width), proposals) in enumerate(zip(sizes, found, strict=True)):
        expected = []
        for anchor, logit, delta in zip(anchors, logits, deltas, strict=True):
            order = sorted(range(len(anchor)), key=lambda i: -logit[image, i].item())[:before]
            boxes = Boxes(rpn.box2box_transform.apply_deltas(delta[image, order], anchor.tensor[order]))
            boxes.clip((height, width))
            scores = logit[image, order]
            rows = boxes.nonempty()
            kept = suppress_by_loop(boxes.tensor[rows], scores[rows].tolist(), rpn.nms_thresh)
            expected += [(scores[rows][i].item(), boxes.tensor[rows][i].tolist()) for i in kept]
        expected = sorted(expected, reverse=True)[:after]
        assert proposals.objectness_logits.tolist() == [score for score, _ in expected]
        torch.testing.assert_close(proposals.proposal_boxes.tensor, torch.tensor([box for _, box in expected]))
