import copy
import math

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.optim import AdamW

from clipself_d2.detection import fvit
from clipself_d2.detection.fvit import PIXEL_STATS
from clipself_d2.engine.checkpoint import Checkpointer
from clipself_d2.engine.errors import NonFiniteLossError
from clipself_d2.engine.optim import param_groups
from clipself_d2.engine.trainer import StepStorage, Trainer
from clipself_d2.errors import InputError
from tests.detection.tiny import CLASSES, build_detector, build_words, scene
from tests.second_device import HostWaits, SecondDevice

NAMES = ["tiny-vit-8", "tiny-eva-14"]
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


def random_image(rows=48, columns=60, **frame):
    return {"image": torch.randint(0, 256, (3, rows, columns), dtype=torch.uint8), **frame}


def finite(losses):
    return all(torch.isfinite(x) for x in losses.values())


def tell(model, boxes):
    """Let the RPN propose these boxes (pixels of the square) for every image, and nothing else."""

    def propose(images, features, targets):
        return [
            Instances(size, proposal_boxes=Boxes(boxes.clone()), objectness_logits=torch.arange(len(boxes), 0, -1.0))
            for size in images.image_sizes
        ], {}

    model.rpn.forward = propose


def everything(model):
    """Let every proposal be a detection of every class, its box as proposed."""
    heads = model.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_image = -1.0, 1.0, -1
    nn.init.zeros_(heads.box_head.box[1].weight)
    return model


# ---- training ----


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_reaches_every_trainable_parameter(tower, storage, name, masks):
    model = build_detector(tower(name), masks=masks).train()
    losses = model([scene(0, masks=masks), scene(1, 1, masks=masks)])
    assert set(losses) == LOSSES | ({"loss_mask"} if masks else set()) and finite(losses)
    sum(losses.values()).backward()
    assert all(p.requires_grad and p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad is None for p in model.backbone.tower.parameters())


def test_one_tower_forward_for_each_call(tower, storage):
    model = build_detector(tower())
    calls = []
    model.backbone.tower.patch_embedding.register_forward_hook(lambda _, args, out: calls.append(len(args[0])))
    model.train()([scene(0), scene(1)])
    model.eval()([scene(0), scene(1), scene(2)])
    model.propose([scene(0)])
    assert calls == [2, 3, 1]


def test_the_frozen_tower_has_no_optimizer_state(tower, storage):
    model = build_detector(tower()).train()
    optimizer = AdamW(param_groups(model, 0.1, decay_vectors=True), lr=1e-3)
    sum(model([scene(0)]).values()).backward()
    optimizer.step()
    assert set(optimizer.state) == set(model.parameters())
    assert not any("tower.visual" in name or "trained_tower" in name for name in model.state_dict())


def test_a_trainable_backbone_learns_too(tower, storage):
    model = build_detector(tower(), trainable=True).train()
    factors = {"backbone.trained_tower": 0.01}
    optimizer = AdamW(param_groups(model, 0.1, decay_vectors=True, lr=1e-4, lr_factors=factors), lr=1e-4)
    before = copy.deepcopy(model.backbone.tower.state_dict())
    sum(model([scene(0), scene(1)]).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([1e-6, 1e-4])
    assert any(not torch.equal(value, before[name]) for name, value in model.backbone.tower.state_dict().items())


def test_it_learns_a_scene_by_heart(tower, storage):
    model = build_detector(tower(), norm="", size=64).train()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        losses = model([scene(0), scene(1)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(sum(x.item() for x in losses.values()))
    assert sum(totals[-5:]) < 0.6 * sum(totals[:5])


def test_images_without_objects(tower, storage):
    model = build_detector(tower(), masks=True).train()
    losses = model([scene(0, 0), scene(1, 0)])
    assert finite(losses) and losses["loss_box_reg"] == losses["loss_mask"] == losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 64)])
def test_training_images_of_extreme_sizes(tower, storage, size):
    model = build_detector(tower(), masks=True).train()
    x = scene(0, 1, size)
    x["instances"].gt_boxes = Boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]))
    losses = model([x])
    sum(losses.values()).backward()
    assert finite(losses) and all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("antialias", [False, True])
def test_a_large_image_in_evaluation(tower, antialias):
    """At a quarter of its size: without antialias, each pixel is the mean of the four in the middle of sixteen."""
    model = build_detector(tower()).eval()
    model.antialias = antialias
    image = torch.randint(0, 256, (3, 4 * model.size, 4 * model.size), dtype=torch.uint8)
    pixels = model._letterbox([{"image": image}]).tensor[0] * model.pixel_std + model.pixel_mean
    middle = image.float().unflatten(2, (-1, 4)).unflatten(1, (-1, 4))[:, :, 1:3, :, 1:3].mean(dim=(2, 4))
    assert torch.allclose(pixels, middle, atol=1e-3) != antialias


def test_training_without_any_proposal(tower, storage):
    model = build_detector(tower(), masks=True).train()
    model.rpn.post_nms_topk[True] = 0
    for objects in (2, 0):
        losses = model([scene(0, objects)])
        sum(losses.values()).backward()
        assert finite(losses) and all(p.grad is not None for p in model.parameters())


def test_padding_is_zero_after_normalization(tower):
    model = build_detector(tower())
    image = torch.randint(0, 256, (3, 10, 20), dtype=torch.uint8)
    batch = model._pad([image]).tensor[0]
    mean, std = (torch.tensor(x) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    torch.testing.assert_close(batch[:, :10, :20], (image.float() - mean[:, None, None]) / std[:, None, None])
    assert not batch[:, 10:].any() and not batch[:, :, 20:].any() and batch.shape == (3, 64, 64)


def test_clips_statistics_are_the_towers(tower):
    mean, std = (torch.tensor(x) / 255 for x in PIXEL_STATS["clip"])
    torch.testing.assert_close(mean, tower().pixel_mean.flatten())
    torch.testing.assert_close(std, tower().pixel_std.flatten())


def test_the_host_waits_for_a_gpu_as_little_as_it_can(tower):
    """For the proposals of all images (a suppression ends with a wait of its own) and for what a step logs.

    Masks are of objects' regions alone, of which the host must know the number.
    """
    for masks in (False, True):
        with SecondDevice():
            model = build_detector(tower("tiny-vit-8"), masks=masks).to("cuda").train()
            batch = [scene(0, masks=masks), scene(1, 0, masks=masks), scene(2, 4, masks=masks)]
            trainer = Trainer(model, [batch, batch], AdamW(list(model.parameters()), fused=True))
            with StepStorage(0) as trainer.storage:
                trainer.iter = 0
                trainer.run_step()  # makes tables
                trainer.storage.step()
                with HostWaits() as waits:
                    trainer.run_step()
        assert [line.partition(":")[0] for line in waits.lines] == ["nms"] + ["tolist"] * (2 + masks), waits.lines


# ---- evaluation ----


@pytest.mark.parametrize("name", NAMES)
def test_detections_have_detectron2s_format(tower, name):
    model = build_detector(tower(name), masks=True).eval()
    out = model([random_image(), random_image(96, 30, height=192, width=60)])
    assert [x["instances"].image_size for x in out] == [(48, 60), (192, 60)]
    for x in out:
        found = x["instances"]
        assert len(found) <= 100 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert found.pred_masks.shape == (len(found), *found.image_size)
        assert ((found.pred_classes >= 0) & (found.pred_classes < 5)).all()
        assert not found.scores.requires_grad


def test_the_host_waits_for_a_gpu_twice(tower):
    """For the numbers of proposals and of detections of all images; each suppression ends with a wait of its own."""
    for masks in (False, True):
        with SecondDevice():
            model = build_detector(tower("tiny-vit-8"), masks=masks, score_thresh=0.0).to("cuda").eval()
            inputs = [random_image(), random_image(30, 64), random_image()]
            model(inputs)  # makes tables
            with HostWaits() as waits:
                found = model(inputs)
        assert all(len(x["instances"]) > 9 for x in found)
        assert [line.partition(":")[0] for line in waits.lines] == ["nms", "tolist"] * 2, waits.lines


def test_packed_masks_are_those_that_detectron2_pastes(monkeypatch):
    monkeypatch.setattr(fvit, "_PASTED_PIXELS", 2 * 45 * 60)  # two at once
    corners = torch.tensor([[0.0, 0, 40, 30], [5, 5, 20.5, 9], [30, 10, 70, 29], [3, 2, 5, 4]])
    fields = {"pred_masks": torch.rand(4, 1, 28, 28), "scores": torch.rand(4)}
    raw = [Instances((30, 40), pred_boxes=Boxes(corners.clone()), **fields) for _ in range(2)]
    expected, found = detector_postprocess(raw[0], 45, 60), fvit._to_image(raw[1], (45, 60))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_masks.tensor, expected.pred_masks)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize(
    ("photo", "frame"),
    [
        ((96, 192), (96, 192)),
        ((192, 96), (192, 96)),
        ((100, 37), (100, 37)),
        ((20, 10), (20, 10)),
        ((30, 64), (300, 640)),
    ],
)
def test_boxes_are_in_pixels_of_the_image(tower, photo, frame):
    """Proposals at known places of the letterboxed square, against the plain factor between the two."""
    model = everything(build_detector(tower())).eval()
    factor = max(photo) / 64 * (frame[0] / photo[0])
    inside = torch.tensor([frame[1], frame[0]]).repeat(2) / factor
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], [0.5, 0.25, 0.75, 0.5]]) * inside
    tell(model, boxes)
    found = model([random_image(*photo, height=frame[0], width=frame[1])])[0]["instances"]
    assert len(found) == 15
    for box in boxes * factor:
        near = (found.pred_boxes.tensor - box).abs().amax(dim=1) < 1e-3 * max(frame)
        assert sorted(found.pred_classes[near].tolist()) == [0, 1, 2, 3, 4]


def test_proposals_are_in_pixels_of_the_image_best_first(tower):
    model = build_detector(tower()).eval()
    boxes = torch.tensor([[0.0, 0, 64, 32], [8, 4, 24, 20], [0, 32, 64, 64]])  # the last lies in the padding
    tell(model, boxes)
    (found,) = model.propose([random_image(96, 192)])
    torch.testing.assert_close(found.proposal_boxes.tensor[:2], boxes[:2] * 3)
    assert found.image_size == (96, 192) and found.objectness_logits.tolist()[:2] == [3.0, 2.0]
    (real,) = build_detector(tower()).eval().propose([random_image(96, 192)])
    corners = real.proposal_boxes.tensor
    assert 0 < len(real) <= 30 and (corners >= 0).all() and (corners <= torch.tensor([192, 96]).repeat(2)).all()
    assert real.objectness_logits.tolist() == sorted(real.objectness_logits.tolist(), reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_tight_reads_no_more_than_the_batch_needs(tower, name):
    model = build_detector(tower(name)).eval()
    square = model._letterbox([random_image(24, 64), random_image(40, 64)])
    model.skip_padding = True
    tight = model._letterbox([random_image(24, 64), random_image(40, 64)])
    step = 2 * model.backbone.tower.stride
    needed = 40 / 64 * model.size
    height, width = tight.tensor.shape[-2:]
    assert width == model.size and height % step == 0 and needed <= height < needed + step
    assert tight.image_sizes == square.image_sizes
    seen = []
    forward = model.backbone.tower.features
    model.backbone.tower.features = lambda *args: seen.append((args[0].shape[-2:], args[3])) or forward(*args)
    outputs = model([random_image(24, 64), random_image(40, 64)])
    del model.backbone.tower.features
    assert seen == [((height, width), model.size)]
    assert [len(x["instances"]) for x in outputs] != [0, 0]


def test_tight_is_square_for_a_square_image(tower):
    model = build_detector(tower(NAMES[0])).eval()
    sample = random_image(64, 64)
    [square] = model([sample])
    model.skip_padding = True
    [tight] = model([sample])
    assert torch.equal(square["instances"].scores, tight["instances"].scores)


def test_the_letterbox(tower):
    """The image, bilinear, in the upper left, zeros elsewhere, sizes not rounded; nothing moves at scale 1."""
    model = build_detector(tower())
    images = model._letterbox([random_image(50, 100), random_image(64, 33), {"image": torch.full((3, 9, 90), 200.0)}])
    assert images.image_sizes[0] == (32.0, 64.0) and images.image_sizes[1] == (64.0, 33.0)
    assert images.image_sizes[2] == pytest.approx((6.4, 64.0))
    assert not images.tensor[0, :, 32:].any() and not images.tensor[1, :, :, 33:].any()
    grey = (torch.tensor([200.0] * 3) - model.pixel_mean.flatten()) / model.pixel_std.flatten()
    torch.testing.assert_close(images.tensor[2, :, :6], grey[:, None, None].expand(3, 6, 64))
    assert not images.tensor[2, :, 6:].any()
    same = random_image(64, 33)
    torch.testing.assert_close(model._letterbox([same]).tensor, model._pad([same["image"]]).tensor)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (30, 10_000), (10_000, 30), (1, 300), (64, 64)])
def test_images_of_extreme_sizes(tower, size, masks):
    model = build_detector(tower(), masks=masks).eval()
    height, width = size
    found = model([random_image(*size)])[0]["instances"]
    corners = found.pred_boxes.tensor
    assert found.image_size == size and torch.isfinite(corners).all() and torch.isfinite(found.scores).all()
    assert (corners >= 0).all() and (corners <= torch.tensor([width, height]).repeat(2)).all()
    (proposed,) = model.propose([random_image(*size)])
    assert proposed.image_size == size and len(proposed) > 0


def test_no_proposals(tower):
    model = build_detector(tower(), masks=True).eval()
    model.rpn.post_nms_topk[False] = 0
    assert [len(x["instances"]) for x in model([random_image(), random_image()])] == [0, 0]
    assert [len(x) for x in model.propose([random_image()])] == [0]


def test_a_batch_gives_what_its_images_give(tower):
    model = build_detector(tower()).eval()
    photos = [random_image(48, 60), random_image(60, 30)]
    together = model(photos)
    for photo, both in zip(photos, together, strict=True):
        alone = model([photo])[0]["instances"]
        assert alone.pred_classes.tolist() == both["instances"].pred_classes.tolist()
        torch.testing.assert_close(alone.pred_boxes.tensor, both["instances"].pred_boxes.tensor, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone.scores, both["instances"].scores, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_of_the_fusion(tower, alpha, beta):
    """0: the head alone, so that CLIP's temperature changes nothing; 1: CLIP alone, so that the head's does not."""
    model = everything(build_detector(tower(), alpha=alpha, beta=beta)).eval()
    photo = [random_image()]
    before = model(photo)[0]["instances"].scores
    with torch.no_grad():
        model.roi_heads.clip_temperature, untouched = (33.0, True) if alpha == 0 else (75.0, True)
        if alpha == 1:
            model.roi_heads.classifier.temperature.fill_(5.0)
    assert torch.equal(model(photo)[0]["instances"].scores, before) is untouched
    model.roi_heads.alpha = model.roi_heads.beta = 0.5
    assert not torch.allclose(model(photo)[0]["instances"].scores, before)


# ---- vocabularies ----


def test_a_vocabulary_of_the_call_equals_one_of_the_model(tower):
    other = build_words(["green heart", "red disc", "red star"], ["red disc"])
    model = build_detector(tower()).eval()
    theirs = build_detector(tower(), vocabulary=other).eval()
    photos = [random_image(), random_image(64, 20)]
    for ours, rebuilt in zip(model(photos, other), theirs(photos), strict=True):
        assert torch.equal(ours["instances"].scores, rebuilt["instances"].scores)
        assert torch.equal(ours["instances"].pred_classes, rebuilt["instances"].pred_classes)
        assert torch.equal(ours["instances"].pred_boxes.tensor, rebuilt["instances"].pred_boxes.tensor)
    own = build_detector(tower()).eval()
    for ours, fresh in zip(model(photos), own(photos), strict=True):  # and nothing of it stays
        assert torch.equal(ours["instances"].scores, fresh["instances"].scores)


def test_a_vocabulary_of_the_call_in_training(tower, storage):
    base = build_words(CLASSES[:3], [])
    losses = []
    for vocabulary in (None, base):
        model = build_detector(tower()).train()
        torch.manual_seed(3)
        losses.append({name: x.item() for name, x in model([scene(0), scene(1)], vocabulary).items()})
    assert losses[0] == pytest.approx(losses[1])


def test_vocabularies_that_do_not_fit(tower):
    model = build_detector(tower()).eval()
    with pytest.raises(InputError, match="its embeddings have length 24, the image tower's 16: use the text tower of"):
        model([random_image()], build_words(length=24))
    words = build_words()
    words.background = None
    with pytest.raises(InputError, match="needs a background"):
        model([random_image()], words)
    with pytest.raises(InputError, match="have length 8"):
        build_detector(tower(), vocabulary=build_words(length=8))


def test_objects_that_the_vocabulary_does_not_allow(tower, storage):
    model = build_detector(tower()).train()
    x = scene(0) | {"file_name": "000000000139.jpg"}
    x["instances"].gt_classes[1] = 4
    with pytest.raises(InputError, match=r"000000000139\.jpg: has an object of 'blue star', which .* novel") as caught:
        model([scene(1), x])
    assert "\n" not in str(caught.value)
    x["instances"].gt_classes[1] = 5
    with pytest.raises(InputError, match="has an object of class 5, the vocabulary's 5 classes count from 0"):
        model([x])


def test_a_learned_background_is_of_the_model(tower, storage):
    model = build_detector(tower(), classifier={"learned_background": 16}).train()
    sum(model([scene(0)]).values()).backward()
    assert model.roi_heads.classifier.background.grad.any()
    assert len(model.eval()([random_image()], build_words(["cube"], []))) == 1


def test_a_fixed_temperature_at_evaluation(tower):
    photos = [random_image()]
    learned = build_detector(tower(), classifier={"temperature": 20}).eval()
    fixed = build_detector(tower(), classifier={"temperature": 20, "fixed_temperature": 50}).eval()
    fifty = build_detector(tower(), classifier={"temperature": 50}).eval()
    scores = [everything(m)(photos)[0]["instances"].scores for m in (learned, fixed, fifty)]
    assert torch.equal(scores[1], scores[2]) and not torch.allclose(scores[0], scores[1])


# ---- precision, state, construction ----


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(tower, storage, name):
    model = build_detector(tower(name), masks=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()([scene(0), scene(1, 0)])
        sum(losses.values()).backward()
        found = model.eval()([random_image()])[0]["instances"]
    assert finite(losses) and all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
    assert torch.isfinite(found.scores).all()


def test_statistics_between_ranks_are_in_fp32(tower, storage):
    model, kinds = build_detector(tower(), norm="naiveSyncBN", masks=True).train(), set()
    norms = [module for module in model.modules() if isinstance(module, NaiveSyncBatchNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda _, args, out: kinds.add(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model([scene(0)])
    assert len(norms) == 13 and kinds == {torch.float32}


def test_proposals_that_are_not_finite_stop_the_run(tower, storage):
    model = build_detector(tower()).train()
    nn.init.constant_(model.rpn.rpn_head.objectness.bias, math.nan)
    with pytest.raises(NonFiniteLossError, match=r"proposals are not finite; image ids of the batch: \[0, 1\]"):
        model([scene(0), scene(1)])


def test_the_state_is_restored_and_refuses_another_tower(tower):
    model, photos = build_detector(tower(), seed=1).eval(), [random_image()]
    other = build_detector(tower(), seed=2).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(photos)[0]["instances"].scores, other(photos)[0]["instances"].scores)
    assert "vocabulary" not in " ".join(model.state_dict())
    with pytest.raises(InputError, match="another image tower"):
        build_detector(tower(seed=1)).load_state_dict(model.state_dict())


def test_bad_construction(tower):
    with pytest.raises(InputError, match=r"model\.size=100: not a multiple of the tower's stride 8; try 96"):
        build_detector(tower(), size=100)
    with pytest.raises(InputError, match=r"model\.size=-8: .* try 8"):
        build_detector(tower(), size=-8)
    good = build_detector(tower())
    parts = (good.backbone, good.rpn, good.roi_heads, good.vocabulary, 64)
    with pytest.raises(InputError, match=r"model\.pixel_stats='laion': use one of imagenet, clip"):
        type(good)(*parts, pixel_stats="laion")
    wrong = build_detector(tower("tiny-eva-14"))
    with pytest.raises(
        InputError, match=r"model\.rpn\.strides=\[3\.5, 7\.0, .*the backbone's levels have \[2\.0, 4\.0"
    ):
        type(good)(good.backbone, wrong.rpn, *parts[2:])
    with pytest.raises(InputError, match=r"model\.roi_heads\.strides=\[3\.5"):
        type(good)(*parts[:2], wrong.roi_heads, *parts[3:])
    with pytest.raises(InputError, match="a training image is 60 x 65 pixels, the model's size is 64"):
        build_detector(tower(), size=64).train()([scene(0, size=(65, 60))])


# ---- runs ----


def trainer_of(tower, folder, loader):
    model = build_detector(tower, masks=True)
    optimizer = AdamW(param_groups(model, 0.1, decay_vectors=True), lr=1e-3)
    trainer = Trainer(model, loader, optimizer, seed=5, clip_grad_norm=1.0)
    return trainer, Checkpointer(folder, model=model, optimizer=optimizer, trainer=trainer)


def test_a_resumed_training_repeats_an_uninterrupted_one(tower, tmp_path):
    batches = [[scene(2 * i), scene(2 * i + 1)] for i in range(5)]
    whole, _ = trainer_of(tower(), tmp_path / "whole", batches)
    whole.train(0, 5)
    first, checkpointer = trainer_of(tower(), tmp_path / "halves", batches)
    first.train(0, 3)
    checkpointer.save(3)
    second, checkpointer = trainer_of(tower(), tmp_path / "halves", batches[3:])
    nn.init.zeros_(second.model.rpn.rpn_head.objectness.weight)  # whatever it was before
    assert checkpointer.resume() == 3
    second.train(3, 5)
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())
    saved = torch.load(checkpointer.checkpoints()[0], weights_only=True)["model"]
    assert not any("visual" in name for name in saved)


def test_a_run_beside_another_tower_does_not_resume(tower, tmp_path):
    trainer, checkpointer = trainer_of(tower(), tmp_path, [[scene(0)]])
    trainer.train(0, 1)
    checkpointer.save(1)
    with pytest.raises(InputError, match="trained on another image tower"):
        trainer_of(tower(seed=1), tmp_path, [])[1].resume()
