import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torchvision.ops import box_iou, nms, roi_align

from clipself_d2.detection import BoxHead, CosineClassifier, OpenVocabularyROIHeads
from tests.detection.tiny import CLASSES, build_words, match_by_loop

STRIDES, SIDE = [3.5, 7, 14, 28], 112
VOCABULARY = build_words()
SEEN = VOCABULARY.is_base.tolist()


class LinearHead(nn.Module):
    """A box head whose arithmetic a loop can repeat: the mean of a region, twice projected."""

    def __init__(self, channels=4, length=16, scale=0.3):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(channels, length))
        self.deltas = nn.Parameter(torch.randn(channels, 4) * scale)

    def forward(self, regions):
        means = regions.mean(dim=(2, 3))
        return means @ self.embedding, means @ self.deltas


def build(**kwargs):
    return OpenVocabularyROIHeads(
        [*STRIDES, 56],
        kwargs.pop("box_head", None) or LinearHead(),
        kwargs.pop("classifier", CosineClassifier()),
        **kwargs,
    )


def features(images=2, channels=4):
    maps = {f"p{i + 2}": torch.randn(images, channels, *[int(SIDE / s)] * 2) for i, s in enumerate(STRIDES)}
    dense = nn.functional.normalize(torch.randn(images, 16, 8, 8), dim=1)
    return {**maps, "p6": torch.randn(images, channels, 2, 2), "dense": dense}


def random_boxes(count):
    corners = torch.rand(count, 2) * SIDE / 2
    return torch.cat([corners, corners + 6 + torch.rand(count, 2) * SIDE / 2], dim=1).clamp(max=SIDE)


def proposals(counts=(20, 15)):
    return [
        Instances((SIDE, SIDE), proposal_boxes=Boxes(random_boxes(n)), objectness_logits=torch.randn(n)) for n in counts
    ]


def targets(counts=(4, 3), masks=False):
    out = []
    for n in counts:
        boxes = random_boxes(n).round()
        out.append(Instances((SIDE, SIDE), gt_boxes=Boxes(boxes), gt_classes=torch.randint(0, 3, (n,))))
        if masks:
            drawn = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(drawn, boxes.int().tolist(), strict=True):
                mask[y0:y1, x0:x1] = True
            out[-1].gt_masks = BitMasks(drawn)
    return out


def pooled(maps, image, box, size=7):
    """One region, from the level that its side names."""
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = min(max(math.floor(math.log2(side / 56)), 0), 3)
    x = maps[f"p{level + 2}"][image : image + 1]
    return roi_align(x, [box[None]], size, 1 / STRIDES[level], 0, aligned=True)


# ---- training ----


def test_losses_against_a_loop(storage):
    """A sample so large that every proposal and every object is in it."""
    heads = build(batch_size_per_image=400, background_weight=0.6).train()
    maps, found, wanted = features(), proposals(), targets()
    losses = heads.losses(maps, found, wanted, VOCABULARY)
    classification = localisation = 0.0
    count = positives = 0
    for image, (p, t) in enumerate(zip(found, wanted, strict=True)):
        for box in torch.cat([p.proposal_boxes.tensor, t.gt_boxes.tensor]):
            count += 1
            overlaps = box_iou(box[None], t.gt_boxes.tensor)[0].tolist()
            match = max(range(len(overlaps)), key=overlaps.__getitem__)
            label = int(t.gt_classes[match]) if overlaps[match] >= 0.5 else None
            embedding, deltas = heads.box_head(pooled(maps, image, box))
            rows = [VOCABULARY.text_embeddings[k] for k in range(5) if SEEN[k]] + [VOCABULARY.background]
            logits = [50 * torch.cosine_similarity(embedding[0], row, dim=0).item() for row in rows]
            log_sum = max(logits) + math.log(sum(math.exp(z - max(logits)) for z in logits))
            classification += 0.6 * (log_sum - logits[3]) if label is None else log_sum - logits[label]
            if label is not None:
                positives += 1
                x0, y0, x1, y1 = box.tolist()
                a0, b0, a1, b1 = t.gt_boxes.tensor[match].tolist()
                w, h = x1 - x0, y1 - y0
                target = [
                    ((a0 + a1) / 2 - (x0 + x1) / 2) / w / 0.1,
                    ((b0 + b1) / 2 - (y0 + y1) / 2) / h / 0.1,
                    math.log((a1 - a0) / w) / 0.2,
                    math.log((b1 - b0) / h) / 0.2,
                ]
                localisation += sum(abs(d - v) for d, v in zip(deltas[0].tolist(), target, strict=True))
    assert count == 42 and positives >= 7
    assert losses["loss_cls"].item() == pytest.approx(classification / count, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(localisation / count, rel=1e-4)
    assert set(losses) == {"loss_cls", "loss_box_reg"}


def test_the_sample():
    """512 regions, at most a quarter with an object, the objects themselves among them, matched from IoU 0.5 on."""
    heads = build()
    assert (heads.batch_size_per_image, heads.positive_fraction, heads.proposal_append_gt) == (512, 0.25, True)
    matcher = heads.proposal_matcher
    assert (matcher.negative, matcher.positive, matcher.best) == (0.5, 0.5, None)


def test_too_little_background(storage):
    """Places that it leaves free hold regions of no class, which change no loss."""
    boxes = random_boxes(4).round()
    found = [Instances((SIDE, SIDE), proposal_boxes=Boxes(boxes.repeat(5, 1)), objectness_logits=torch.zeros(20))]
    wanted = [Instances((SIDE, SIDE), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 1, 2, 0]))]
    heads = build(batch_size_per_image=16, positive_fraction=0.25).train()
    heads.num_classes = 5
    (sampled,) = heads.label_and_sample_proposals(found, wanted)
    assert sorted(sampled.gt_classes.tolist())[:12] == [-1] * 12 and (sampled.gt_classes[:4] >= 0).all()
    maps = features(1)
    torch.manual_seed(0)
    losses = heads.losses(maps, found, wanted, VOCABULARY)
    torch.manual_seed(0)
    (sampled,) = heads.label_and_sample_proposals(found, wanted)
    heads.label_and_sample_proposals = lambda *_: [sampled[:4]]
    for name, expected in heads.losses(maps, found, wanted, VOCABULARY).items():
        torch.testing.assert_close(losses[name], expected)


@pytest.mark.parametrize("match_best", [False, True])
def test_the_sample_against_a_loop(storage, match_best):
    """Proposals are matched among themselves, then each object joins them as its own."""
    torch.manual_seed(0)
    corners = torch.rand(300, 2) * 20
    boxes = torch.cat([corners, corners + 15 + torch.rand(300, 2) * 20], dim=1)
    found = [Instances((64, 64), proposal_boxes=Boxes(boxes[:250]), objectness_logits=torch.zeros(250))]
    objects = boxes[250:]
    classes = torch.randint(0, 3, (50,))
    target = [Instances((64, 64), gt_boxes=Boxes(objects), gt_classes=classes)]
    heads = build(match_best=match_best, positive_fraction=1.0)
    heads.num_classes = 5
    (sampled,) = heads.label_and_sample_proposals(found, target)

    overlaps = box_iou(objects, boxes[:250]).tolist()
    wanted = match_by_loop(overlaps, 0.5, 0.5, 0.5 if match_best else None)
    moved = sum(a != b for a, b in zip(wanted, match_by_loop(overlaps, 0.5, 0.5, None), strict=True))
    assert (moved > 5) == match_best
    wanted += [(i, 1) for i in range(50)]
    rows = {}
    for box, (match, label) in zip(boxes.tolist(), wanted, strict=True):
        rows[tuple(box)] = (int(classes[match]), objects[match].tolist()) if label else (5, None)
    assert len(sampled) == 300
    fields = sampled.proposal_boxes.tensor, sampled.gt_classes, sampled.gt_boxes.tensor
    for box, label, matched in zip(*(x.tolist() for x in fields), strict=True):
        expected, own = rows[tuple(box)]
        assert label == expected and own in (None, matched)


def test_novel_columns_change_nothing(storage):
    """Neither their embeddings nor their number, and no NaN comes from them."""
    heads, found, wanted, maps = build().train(), proposals(), targets(), features()
    results = []
    others = ["red disc", "green star", "green heart"]
    for vocabulary in (VOCABULARY, VOCABULARY.only_base(), build_words([*CLASSES[:3], *others], others)):
        torch.manual_seed(0)
        results.append(heads.losses(maps, found, wanted, vocabulary)["loss_cls"].item())
    assert (
        results[0] == pytest.approx(results[1])
        and results[0] == pytest.approx(results[2])
        and math.isfinite(results[0])
    )


def test_a_zero_feature_is_no_nan(storage):
    heads = build(box_head=BoxHead(16, 4, num_convs=1, norm="")).train()
    nn.init.constant_(heads.box_head.embedding[0].bias, -1e9)  # the ReLU lets nothing through
    losses = heads.losses(features(), proposals(), targets(), VOCABULARY)
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())


def test_images_without_objects(storage):
    heads = build().train()
    losses = heads.losses(features(), proposals(), targets((0, 3)), VOCABULARY)
    assert all(torch.isfinite(x) for x in losses.values())
    losses = heads.losses(features(), proposals(), targets((0, 0)), VOCABULARY)
    assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == 0


@pytest.mark.parametrize("objects", [(2, 0), (0, 0)])
def test_without_proposals(storage, objects):
    """Only the objects are left to train on, or nothing: zero losses that reach every parameter."""
    mask_head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=1, conv_dims=[4, 4], conv_norm="BN")
    heads = build(box_head=BoxHead(16, 4, num_convs=1, norm="BN"), mask_head=mask_head).train()
    losses = heads.losses(features(), proposals((0, 0)), targets(objects, masks=True), VOCABULARY)
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in heads.parameters())
    if not any(objects):
        assert not any(losses.values()) and not any(p.grad.any() for p in heads.parameters())


# ---- masks ----


def mask_head(bias=0.0):
    head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=1, conv_dims=[4] * 5, conv_norm="BN")
    nn.init.zeros_(head.predictor.weight)
    nn.init.constant_(head.predictor.bias, bias)
    return head


def test_the_mask_loss_of_objects_that_fill_their_boxes(storage):
    """Without proposals the objects are the regions, and every one of the 28 x 28 targets is 1."""
    heads = build(mask_head=mask_head(bias=2.0)).train()
    losses = heads.losses(features(), proposals((0, 0)), targets(masks=True), VOCABULARY)
    assert losses["loss_mask"].item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-5)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}


def test_the_mask_loss_is_detectron2s(storage):
    """Of the regions of objects alone."""
    heads = build(mask_head=mask_head()).train()
    nn.init.normal_(heads.mask_head.predictor.weight)
    maps, found, wanted = features(), proposals(), targets((4, 0), masks=True)
    torch.manual_seed(0)
    loss = heads.losses(maps, found, wanted, VOCABULARY)["loss_mask"]
    torch.manual_seed(0)
    sampled = [x[x.gt_classes < 5] for x in heads.label_and_sample_proposals(found, wanted)]
    levels = [maps[name] for name in heads.level_names]
    regions = heads.mask_pooler(levels, [x.proposal_boxes.tensor for x in sampled])
    torch.testing.assert_close(loss, heads.mask_head(regions, sampled)["loss_mask"])


def test_the_mask_head_reads_14_bins_and_answers_28(storage):
    head = mask_head()
    shapes = []
    head.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    heads = build(mask_head=head).eval()
    with torch.no_grad():
        out = heads.detect(features(), proposals(), VOCABULARY, 14)
    assert shapes[0][1:] == (4, 14, 14) and shapes[0][0] == sum(map(len, out)) > 0
    assert all(x.pred_masks.shape == (len(x), 1, 28, 28) for x in out)
    assert all((x.pred_masks == 0.5).all() for x in out)


def test_no_foreground_leaves_the_mask_head_a_zero_gradient(storage):
    heads = build(mask_head=mask_head()).train()
    losses = heads.losses(features(), proposals(), targets((0, 0), masks=True), VOCABULARY)
    assert losses["loss_mask"] == 0
    losses["loss_mask"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.mask_head.parameters())


# ---- detection ----

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
