import math

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torchvision.ops import box_iou

from clipself_d2.detection.rpn import RPNHead, build_rpn
from tests.detection.tiny import match_by_loop

B16, L14 = [4, 8, 16, 32, 64], [3.5, 7, 14, 28, 56]


def levels_of(strides, side, channels=8, images=2):
    return {f"p{i + 2}": torch.randn(images, channels, *[math.ceil(side / s)] * 2) for i, s in enumerate(strides)}


# ---- the released values ----


@pytest.mark.parametrize(
    ("strides", "sizes"), [(B16, [32, 64, 128, 256, 512]), (L14, [28, 56, 112, 224, 448])], ids=["B16", "L14"]
)
def test_anchors_by_hand(strides, sizes):
    rpn = build_rpn(strides, channels=8)
    features = levels_of(strides, 112)
    anchors = rpn.anchor_generator([features[name] for name in rpn.in_features])
    for level, (stride, size) in enumerate(zip(strides, sizes, strict=True)):
        height, width = features[f"p{level + 2}"].shape[2:]
        expected = []
        for row in range(height):
            for column in range(width):
                x, y = column * stride, row * stride  # centers on the multiples of the stride
                for ratio in (0.5, 1.0, 2.0):
                    w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(anchors[level].tensor, torch.tensor(expected), atol=1e-3, rtol=1e-5)


def test_anchors_are_made_once_for_each_size(monkeypatch):
    rpn = build_rpn(B16, channels=8)
    small, large = (list(levels_of(B16, side).values()) for side in (64, 128))
    first, other = rpn.anchor_generator(small), rpn.anchor_generator(large)
    assert [len(x) for x in first] != [len(x) for x in other]
    monkeypatch.setattr(DefaultAnchorGenerator, "forward", lambda *_: pytest.fail("made anew"))
    assert rpn.anchor_generator(small) is first and rpn.anchor_generator(large) is other


def test_the_released_values():
    rpn = build_rpn(B16)
    assert rpn.in_features == ["p2", "p3", "p4", "p5", "p6"]
    assert (rpn.batch_size_per_image, rpn.positive_fraction) == (256, 0.5)
    assert rpn.pre_nms_topk == {True: 2000, False: 2000} and rpn.post_nms_topk == {True: 1000, False: 1000}
    assert (rpn.nms_thresh, rpn.min_box_size, rpn.anchor_boundary_thresh) == (0.7, 0.0, -1.0)
    assert (rpn.box_reg_loss_type, rpn.smooth_l1_beta) == ("smooth_l1", 0.0)  # L1
    assert tuple(rpn.box2box_transform.weights) == (1.0, 1.0, 1.0, 1.0)
    assert rpn.loss_weight == {"loss_rpn_cls": 1.0, "loss_rpn_loc": 1.0}


def test_the_head_is_two_convolutions_shared_by_the_levels():
    head = RPNHead()
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes == {
        "convs.0.weight": (256, 256, 3, 3), "convs.0.bias": (256,),
        "convs.1.weight": (256, 256, 3, 3), "convs.1.bias": (256,),
        "objectness.weight": (3, 256, 1, 1), "objectness.bias": (3,),
        "deltas.weight": (12, 256, 1, 1), "deltas.bias": (12,),
    }  # fmt: skip
    normed = RPNHead(norm="SyncBN")
    assert all(isinstance(conv.norm, nn.SyncBatchNorm) and conv.bias is None for conv in normed.convs)


def test_the_heads_arithmetic():
    head = RPNHead(channels=4)
    x = torch.randn(2, 4, 5, 3)
    hidden = x
    for conv in head.convs:
        hidden = nn.functional.conv2d(hidden, conv.weight, conv.bias, padding=1).clamp(min=0)
    logits, deltas = head([x, x[:, :, :1]])
    assert [tuple(y.shape) for y in logits + deltas] == [(2, 3, 5, 3), (2, 3, 1, 3), (2, 12, 5, 3), (2, 12, 1, 3)]
    wanted = torch.einsum("bchw,ac->bahw", hidden, head.objectness.weight[:, :, 0, 0]) + head.objectness.bias[0]
    torch.testing.assert_close(logits[0], wanted)
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = head([x])
    assert logits[0].dtype == deltas[0].dtype == torch.float32


# ---- losses and proposals ----


def random_targets(images=2, objects=4, side=112):
    targets = []
    for _ in range(images):
        corners = torch.rand(objects, 2) * side / 2
        boxes = torch.cat([corners, corners + 8 + torch.rand(objects, 2) * side / 2], dim=1)
        targets.append(Instances((side, side), gt_boxes=Boxes(boxes)))
    return targets


@pytest.mark.parametrize("strides", [B16, L14], ids=["B16", "L14"])
def test_losses_against_a_loop(strides, storage):
    """With so large a sample that every labelled anchor is in it."""
    count = 20_000
    rpn = build_rpn(strides, channels=8, batch_size_per_image=count).train()
    nn.init.normal_(rpn.rpn_head.objectness.weight, std=0.5)
    nn.init.normal_(rpn.rpn_head.deltas.weight, std=0.5)
    features, targets = levels_of(strides, 112), random_targets()
    images = ImageList(torch.zeros(2, 3, 112, 112), [(112, 112)] * 2)
    _, losses = rpn(images, features, targets)

    levels = [features[name] for name in rpn.in_features]
    anchors = torch.cat([x.tensor for x in rpn.anchor_generator(levels)]).tolist()
    logits, deltas = rpn.rpn_head(levels)
    logits = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], dim=1).double().tolist()
    deltas = torch.cat([x.permute(0, 2, 3, 1).reshape(2, -1, 4) for x in deltas], dim=1).double().tolist()
    objectness = localisation = 0.0
    positives = 0
    for image, target in enumerate(targets):
        objects = target.gt_boxes.tensor.tolist()
        # the library's overlaps, whose rounding decides between anchors that overlap an object equally
        quality = box_iou(target.gt_boxes.tensor, torch.tensor(anchors)).tolist()
        for anchor, (match, label) in enumerate(match_by_loop(quality, 0.3, 0.7, 0.3)):
            if label < 0:
                continue
            z = logits[image][anchor]
            objectness += math.log1p(math.exp(-z)) if label else math.log1p(math.exp(z))
            if label:
                positives += 1
                o = objects[match]
                a = anchors[anchor]
                aw, ah, ow, oh = a[2] - a[0], a[3] - a[1], o[2] - o[0], o[3] - o[1]
                wanted = [
                    (o[0] + ow / 2 - a[0] - aw / 2) / aw,
                    (o[1] + oh / 2 - a[1] - ah / 2) / ah,
                    math.log(ow / aw),
                    math.log(oh / ah),
                ]
                localisation += sum(abs(d - w) for d, w in zip(deltas[image][anchor], wanted, strict=True))
    assert positives > 2
    assert losses["loss_rpn_cls"].item() == pytest.approx(objectness / (2 * count), rel=1e-4)
    assert losses["loss_rpn_loc"].item() == pytest.approx(localisation / (2 * count), rel=1e-3)


def test_losses_of_a_sample_are_detectron2s(storage):
    """Whose method takes the labels of all anchors, -1 where an anchor was not drawn."""
    rpn = build_rpn(B16, channels=8, batch_size_per_image=64).train()
    nn.init.normal_(rpn.rpn_head.deltas.weight, std=0.5)
    levels, targets = list(levels_of(B16, 112).values()), random_targets()
    targets[1] = targets[1][:0]
    anchors = rpn.anchor_generator(levels)
    logits, deltas = rpn.rpn_head(levels)
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    deltas = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
    sample, matched = rpn.label_and_sample_anchors(anchors, targets)
    assert (sample.labels == 0).sum(dim=1).tolist()[1] == 64 and (sample.labels[0] == 1).sum() > 2

    boxes = Boxes.cat(anchors).tensor
    labels, objects = [], []
    for target, index, label in zip(targets, sample.indices, sample.labels, strict=True):
        labels.append(torch.full((len(boxes),), -1).scatter(0, index, label.long()))
        best = rpn.anchor_matcher(target.gt_boxes.tensor, boxes)[0]
        objects.append(target.gt_boxes.tensor[best] if len(target) else boxes)
    found = rpn.losses(anchors, logits, sample, deltas, matched)
    for name, expected in RPN.losses(rpn, anchors, logits, labels, deltas, objects).items():
        torch.testing.assert_close(found[name], expected)


def test_an_image_without_objects_teaches_background(storage):
    rpn = build_rpn(B16, channels=8).train()
    empty = [Instances((112, 112), gt_boxes=Boxes(torch.zeros(0, 4)))]
    images = ImageList(torch.zeros(1, 3, 112, 112), [(112, 112)])
    _, losses = rpn(images, levels_of(B16, 112, images=1), empty)
    assert losses["loss_rpn_cls"] > 0 and losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in rpn.parameters())


def test_proposals_are_clipped_to_the_image_and_best_first():
    rpn = build_rpn(L14, channels=8, post_nms_topk=(50, 50)).eval()
    nn.init.normal_(rpn.rpn_head.objectness.weight, std=1)
    images = ImageList(torch.zeros(2, 3, 112, 112), [(112, 70.5), (30.25, 112)])  # sizes may be fractions
    with torch.no_grad():
        proposals, losses = rpn(images, levels_of(L14, 112))
    assert losses == {}
    for p, (height, width) in zip(proposals, images.image_sizes, strict=True):
        boxes = p.proposal_boxes.tensor
        assert 0 < len(p) <= 50 and (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert p.objectness_logits.tolist() == sorted(p.objectness_logits.tolist(), reverse=True)
