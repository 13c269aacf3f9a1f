"""F-ViT in training: losses, gradients, precision, state and runs."""

import copy
import math

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.structures import Boxes
from torch import nn
from torch.optim import AdamW

from clipself_d2.detection.fvit import PIXEL_STATS
from clipself_d2.engine.checkpoint import Checkpointer
from clipself_d2.engine.errors import NonFiniteLossError
from clipself_d2.engine.optim import param_groups
from clipself_d2.engine.trainer import StepStorage, Trainer
from clipself_d2.errors import InputError
from tests.detection.tiny import build_detector, random_image, scene
from tests.second_device import HostWaits, SecondDevice

NAMES = ["tiny-vit-8", "tiny-eva-14"]
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


def finite(losses):
    return all(torch.isfinite(x) for x in losses.values())


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
