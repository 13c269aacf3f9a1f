"""The losses of the ROI heads, of boxes and masks, against loops."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import box_iou

from clipself_d2.detection import BoxHead
from tests.detection.rois import (
    SEEN,
    SIDE,
    VOCABULARY,
    build,
    features,
    mask_head,
    pooled,
    proposals,
    random_boxes,
    targets,
)
from tests.detection.tiny import CLASSES, build_words, match_by_loop


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
