"""Against the published rules, written down mask by mask and pixel by pixel."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.panoptic import panoptic_segments, semantic_map, top_instances
from clipself_d2.regions.interpolate import interpolate_in_chunks
from tests.second_device import CUDA, HostWaits, SecondDevice


@st.composite
def predictions(draw):
    """Scores Q x (K + 1), logits Q x h x w, K bool, and the image's size."""
    count, num_classes = draw(st.integers(0, 6)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.dirichlet(np.full(num_classes + 1, 0.5), size=count).reshape(count, num_classes + 1)
    coarse = torch.from_numpy(rng.normal(size=(1, count, 3, 3)))
    masks = F.interpolate(coarse, (7, 5), mode="bicubic")[0] * 5 if count else coarse.new_zeros(0, 7, 5)
    size = draw(st.sampled_from([(7, 5), (14, 10), (21, 15), (4, 3)]))
    return torch.from_numpy(scores).float(), masks.float(), torch.from_numpy(rng.random(num_classes) < 0.5), size


def resize(masks, size):
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] if len(masks) else masks


def published_panoptic(scores, masks, isthing, size, object_threshold, overlap_threshold):
    probabilities = resize(masks, size).sigmoid().numpy()
    kept = [
        (float(row.max()), int(row.argmax()), probability)
        for row, probability in zip(scores, probabilities, strict=True)
        if int(row.argmax()) != len(isthing) and float(row.max()) > object_threshold
    ]
    ids, segments, stuff = np.zeros(size, int), [], {}
    if not kept:
        return ids, segments
    owner = np.argmax([score * probability for score, _, probability in kept], axis=0)
    for number, (_, category, probability) in enumerate(kept):
        won, inside = owner == number, probability >= 0.5
        mask = won & inside
        if not mask.any() or won.sum() / inside.sum() < overlap_threshold:
            continue
        if not isthing[category] and category in stuff:
            ids[mask] = stuff[category]
            continue
        segments.append((len(segments) + 1, category, bool(isthing[category])))
        ids[mask] = len(segments)
        if not isthing[category]:
            stuff[category] = len(segments)
    return ids, segments


@pytest.fixture(params=[2**26, 1], ids=["whole", "row by row"])
def bands(request, monkeypatch):
    monkeypatch.setattr("clipself_d2.regions.interpolate._MAX_ELEMENTS", request.param)


@pytest.mark.usefixtures("bands")
@given(predictions(), st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 0.5, 0.8]))
def test_panoptic_segments_follow_the_published_rules(predicted, object_threshold, overlap_threshold):
    ids, segments = panoptic_segments(*predicted, object_threshold, overlap_threshold)
    wanted, wanted_segments = published_panoptic(*predicted, object_threshold, overlap_threshold)
    assert np.array_equal(ids.numpy(), wanted)
    assert [(s["id"], s["category_id"], s["isthing"]) for s in segments] == wanted_segments
    assert ids.dtype == torch.int32
    assert {s["id"] for s in segments} == set(ids.unique().tolist()) - {0}


@pytest.mark.usefixtures("bands")
@given(predictions())
def test_semantic_map_sums_the_masks_of_each_class(predicted):
    scores, masks, _, size = predicted
    wanted = np.zeros((scores.shape[1] - 1, *size))
    for row, probability in zip(scores.numpy(), resize(masks, size).sigmoid().numpy(), strict=True):
        for category, score in enumerate(row[:-1]):
            wanted[category] += score * probability
    found = semantic_map(scores, masks, size)["sem_seg"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert torch.equal(semantic_map(scores, masks, size, labels_only=True)["labels"], found.argmax(dim=0).int())


@pytest.mark.usefixtures("bands")
@given(predictions(), st.integers(1, 12))
def test_top_instances_are_the_best_pairs_that_are_things(predicted, topk):
    scores, masks, isthing, size = predicted
    probabilities = resize(masks, size).sigmoid().numpy()
    pairs = [(float(s), q, k) for q, row in enumerate(scores) for k, s in enumerate(row[:-1])]
    wanted = []
    for score, query, category in sorted(pairs, reverse=True)[:topk]:
        inside = probabilities[query] > 0.5
        if isthing[category] and inside.any() and score > 0:
            wanted.append((score * probabilities[query][inside].mean(), category, inside))
    found = top_instances(scores, masks, isthing, size, topk)
    assert found.image_size == size
    assert len(found) == len(wanted)
    assert found.pred_classes.tolist() == [category for _, category, _ in wanted]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in wanted], atol=1e-5)
    for box, mask, (_, _, inside) in zip(found.pred_boxes.tensor, found.pred_masks, wanted, strict=True):
        assert np.array_equal(mask.numpy(), inside)
        y, x = np.nonzero(inside)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_all_results_are_on_the_device_of_the_scores():
    scores, masks, isthing = torch.rand(5, 4).softmax(1), torch.randn(5, 7, 5), torch.tensor([True, False, True])
    expected = top_instances(scores, masks, isthing, (14, 10))
    with SecondDevice():
        there = scores.to("cuda"), masks.to("cuda"), isthing  # the last on either
        ids, _ = panoptic_segments(*there, (14, 10))
        found = top_instances(*there, (14, 10))
        assert ids.device == semantic_map(*there[:2], (14, 10))["sem_seg"].device == CUDA
        assert all(value.device == CUDA for value in found.get_fields().values())
        found = found.to("cpu")
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks.tensor, expected.pred_masks.tensor)
    assert torch.equal(found.scores, expected.scores)


def test_the_host_waits_for_a_gpu_a_fixed_number_of_times():
    """For how many masks take part, and for the segments or instances; whatever the number of masks and chunks."""
    scores, masks, isthing = torch.rand(30, 9).softmax(1), torch.randn(30, 12, 16), torch.arange(8) < 5
    with SecondDevice():
        there = scores.to("cuda"), masks.to("cuda"), isthing
        with HostWaits() as waits:
            _, segments = panoptic_segments(*there, (480, 640), overlap_threshold=0.0)
        names = [line.partition(":")[0] for line in waits.lines]
        assert segments and names == ["nonzero", "tolist"]
        with HostWaits() as waits:
            found = top_instances(*there, (480, 640))
        names = [line.partition(":")[0] for line in waits.lines]
        assert len(found) and names == ["nonzero", "unique", "nonzero"]


def logits(*rows):
    """Sure masks of one row of pixels."""
    return (torch.tensor(rows)[:, None] - 0.5) * 40.0


def test_stuff_of_a_class_is_one_segment_and_things_are_many():
    masks = logits([1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0])
    scores = torch.tensor([[0.9, 0, 0.1], [0.8, 0, 0.2], [0, 0.7, 0.3], [0, 0.6, 0.4]])
    ids, segments = panoptic_segments(scores, masks, torch.tensor([False, True]), (1, 4))
    assert ids.tolist() == [[1, 1, 2, 3]]
    assert [s["score"] for s in segments] == pytest.approx([0.9, 0.7, 0.6])


def test_a_mask_that_is_mostly_hidden_is_dropped_and_its_pixels_stay_void():
    masks = logits([1.0, 1, 1, 0], [0, 1.0, 1, 1])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    ids, segments = panoptic_segments(scores, masks, torch.tensor([True]), (1, 4), 0.0, 0.8)
    assert ids.tolist() == [[1, 1, 1, 0]]
    assert len(segments) == 1


def test_void_and_low_scores_take_no_part():
    masks = logits([1.0, 1], [1.0, 1])
    scores = torch.tensor([[0.3, 0.7], [0.55, 0.45]])
    assert panoptic_segments(scores, masks, torch.tensor([True]), (1, 2))[0].tolist() == [[1, 1]]
    ids, segments = panoptic_segments(scores, masks, torch.tensor([True]), (1, 2), object_threshold=0.55)
    assert ids.tolist() == [[0, 0]]
    assert segments == []


def test_half_precision_logits_are_judged_in_full_precision():
    masks = (torch.rand(3, 8, 8) - 0.5).half()
    scores, isthing = torch.rand(3, 3).softmax(1), torch.tensor([True, False])
    whole, halves = (panoptic_segments(scores, m, isthing, (16, 16))[0] for m in (masks.float(), masks))
    assert torch.equal(whole, halves)


def test_250_masks_of_a_megapixel_are_never_held_at_once(monkeypatch):
    """The bands are as narrow as the limit asks for."""
    monkeypatch.setattr("clipself_d2.regions.interpolate._MAX_ELEMENTS", 2**20)
    sizes = [band.numel() for _, band in interpolate_in_chunks(torch.zeros(250, 64, 64), (512, 256))]
    assert max(sizes) <= 2**20
    assert sum(sizes) == 250 * 512 * 256
