"""What the ROI heads detect, against loops."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import nms, roi_align

from clipself_d2.detection import BoxHead
from tests.detection.rois import (
    SIDE,
    VOCABULARY,
    build,
    features,
    mask_head,
    pooled,
    proposals,
)

EVERYTHING = {"score_thresh": -1.0, "nms_thresh": 1.0, "detections_per_image": 10_000}


def naive_scores(heads, maps, image, box, vocabulary, alpha, beta):
    """Softmax of the head's cosines and of CLIP's, both at the proposal, and their geometric mean."""
    embedding, _ = heads.box_head(pooled(maps, image, box))
    seen_by_clip = roi_align(maps["dense"][image : image + 1], [box[None]], 1, 1 / 14, 0, aligned=True).flatten()
    rows = [*vocabulary.text_embeddings, vocabulary.background]
    distributions = []
    for feature, temperature in ((embedding[0], 50), (seen_by_clip, 75)):
        powers = [math.exp(temperature * torch.cosine_similarity(feature, row, dim=0).item()) for row in rows]
        distributions.append([power / sum(powers) for power in powers])
    weights = [alpha if seen else beta for seen in vocabulary.is_base.tolist()]
    return [p ** (1 - w) * q**w for p, q, w in zip(*distributions, [*weights, alpha], strict=True)][:-1]


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.8), (0, 0), (1, 1), (0, 1), (0.3, 0.3)])
def test_every_score_against_a_loop(alpha, beta):
    heads = build(alpha=alpha, beta=beta, **EVERYTHING).eval()
    nn.init.zeros_(heads.box_head.deltas)
    maps, found = features(), proposals((9, 5))
    with torch.no_grad():
        out = heads.detect(maps, found, VOCABULARY, 14)
    for image, (detections, p) in enumerate(zip(out, found, strict=True)):
        assert len(detections) == 5 * len(p)
        for box in p.proposal_boxes.tensor:
            mine = (detections.pred_boxes.tensor - box).abs().amax(dim=1) < 1e-3
            got = dict(zip(detections.pred_classes[mine].tolist(), detections.scores[mine].tolist(), strict=True))
            wanted = naive_scores(heads, maps, image, box, VOCABULARY, alpha, beta)
            assert [got[k] for k in range(5)] == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_boxes_are_refined_and_clipped_while_clip_looks_at_the_proposals():
    heads = build(alpha=1, beta=1, **EVERYTHING).eval()
    maps, found = features(1), proposals((12,))
    with torch.no_grad():
        (moved,) = heads.detect(maps, found, VOCABULARY, 14)
        _, deltas = heads.box_head(
            heads.box_pooler([maps[n] for n in heads.level_names], [found[0].proposal_boxes.tensor])
        )
        nn.init.zeros_(heads.box_head.deltas)
        (still,) = heads.detect(maps, found, VOCABULARY, 14)
    assert sorted(moved.scores.tolist()) == pytest.approx(sorted(still.scores.tolist()))
    expected = []
    for (x0, y0, x1, y1), (dx, dy, dw, dh) in zip(
        found[0].proposal_boxes.tensor.tolist(), deltas.tolist(), strict=True
    ):
        x, y = (x0 + x1) / 2 + dx * 0.1 * (x1 - x0), (y0 + y1) / 2 + dy * 0.1 * (y1 - y0)
        w, h = (x1 - x0) * math.exp(dw * 0.2), (y1 - y0) * math.exp(dh * 0.2)
        expected.append([min(max(v, 0), SIDE) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)])
    rows = moved.pred_boxes.tensor[moved.pred_classes == 0]
    distances = (rows[:, None] - torch.tensor(expected)).abs().amax(dim=2).amin(dim=1)
    assert len(rows) == 12 and (distances < 1e-2).all()


def test_suppression_is_within_a_class_and_the_best_are_kept():
    every = build(**EVERYTHING).eval()
    some = build(score_thresh=0.02, nms_thresh=0.4, detections_per_image=15).eval()
    some.load_state_dict(every.state_dict())
    maps, found = features(1), proposals((40,))
    with torch.no_grad():
        (raw,), (kept,) = every.detect(maps, found, VOCABULARY, 14), some.detect(maps, found, VOCABULARY, 14)
    expected = []
    for k in range(5):
        mine = (raw.pred_classes == k) & (raw.scores > 0.02)
        boxes, scores = raw.pred_boxes.tensor[mine], raw.scores[mine]
        expected += scores[nms(boxes, scores, 0.4)].tolist()
    assert len(expected) > 15
    assert kept.scores.tolist() == pytest.approx(sorted(expected, reverse=True)[:15])


@pytest.mark.parametrize("masks", [False, True])
def test_no_proposals_give_no_detections(masks):
    heads = build(box_head=BoxHead(16, 4, num_convs=1, norm="BN"), mask_head=mask_head() if masks else None).eval()
    with torch.no_grad():
        out = heads.detect(features(), proposals((0, 0)), VOCABULARY, 14)
        assert [len(x) for x in out] == [0, 0]
        assert [len(x) > 0 for x in heads.detect(features(), proposals((0, 9)), VOCABULARY, 14)] == [False, True]
    if masks:
        assert out[0].pred_masks.shape == (0, 1, 28, 28)


def test_the_released_values_of_ov_coco():
    heads = build()
    assert (heads.fusion, heads.alpha, heads.beta, heads.clip_temperature) == ("fvit", 0.1, 0.8, 75)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_image) == (0.01, 0.4, 100)
    assert heads.background_weight == 0.6 and heads.box_pooler.output_size == 7 and heads.mask_pooler.output_size == 14
    assert tuple(heads.box_transform.weights) == (10, 10, 5, 5)


def test_fvlm_by_name():
    """Without a score threshold the scores of a box sum to less than 1: the detector keeps its background."""
    heads = build(fusion="fvlm", alpha=0.35, beta=0.65, **EVERYTHING).eval()
    nn.init.zeros_(heads.box_head.deltas)
    maps, found = features(1), proposals((1,))
    with torch.no_grad():
        (out,) = heads.detect(maps, found, VOCABULARY, 14)
        box = found[0].proposal_boxes.tensor[0]
        embedding, _ = heads.box_head(pooled(maps, 0, box))
    background = heads.classifier(embedding, VOCABULARY).softmax(dim=1)[0, -1].item()
    wanted = naive_scores(heads, maps, 0, box, VOCABULARY, 0.35, 0.65)
    total = sum(wanted) + background
    got = dict(zip(out.pred_classes.tolist(), out.scores.tolist(), strict=True))
    assert [got[k] for k in range(5)] == pytest.approx([w / total for w in wanted], rel=1e-3, abs=1e-6)
