import copy

import pytest
import torch
from torch import nn

from clipself_d2.backbones import CLIPBackbone, FPNPyramid, SimplePyramid
from clipself_d2.engine.optim import param_groups
from clipself_d2.errors import InputError

NAMES = ["tiny-vit-8", "tiny-eva-14"]


def build(tower, **kwargs):
    return CLIPBackbone(tower, [0, 1, 2, 2], FPNPyramid(32, channels=8, norm="BN"), **kwargs)


@pytest.mark.parametrize(
    ("name", "strides"), [("tiny-vit-8", [2, 4, 8, 16, 32]), ("tiny-eva-14", [3.5, 7, 14, 28, 56])]
)
def test_strides_and_shapes(tower, name, strides):
    backbone = build(tower(name))
    assert backbone.strides == strides
    side = 8 * backbone.size_divisibility
    outputs = backbone(torch.randn(2, 3, side, side))
    shapes = backbone.output_shape()
    assert list(outputs) == list(shapes) == ["p2", "p3", "p4", "p5", "p6", "dense"]
    for name, x in outputs.items():
        assert x.shape == (2, shapes[name].channels, side / shapes[name].stride, side / shapes[name].stride)
    assert [shapes[f"p{i + 2}"].stride for i in range(5)] == strides and shapes["dense"].stride == strides[2]


def test_sides_need_not_be_equal(tower):
    outputs = build(tower())(torch.randn(1, 3, 16, 40))
    assert [tuple(x.shape[2:]) for x in outputs.values()] == [(8, 20), (4, 10), (2, 5), (1, 2), (1, 1), (2, 5)]


@pytest.mark.parametrize("name", NAMES)
def test_one_forward_gives_everything(tower, name):
    backbone = build(tower(name)).eval()
    calls = []
    backbone.tower.patch_embedding.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 4 * backbone.tower.stride, 4 * backbone.tower.stride)
    outputs = backbone(images)
    assert len(calls) == 1
    with torch.no_grad():
        torch.testing.assert_close(outputs["dense"], backbone.tower.dense_embeddings(images))
        maps = backbone.tower.features(images, (0, 1, 2, 2)).blocks
        for name, level in zip(("p2", "p3", "p4", "p5", "p6"), backbone.pyramid(maps), strict=True):
            torch.testing.assert_close(outputs[name], level)
    torch.testing.assert_close(outputs["dense"].norm(dim=1), torch.ones(2, 4, 4))


def test_the_last_block_alone(tower):
    """Tab. A3: the same block for every level, or the one of the simple pyramid."""
    images = torch.randn(1, 3, 32, 32)
    fpn = CLIPBackbone(tower(), [2] * 4, FPNPyramid(32, channels=8, norm="BN"))
    assert fpn(images)["p2"].shape == (1, 8, 16, 16)
    simple = CLIPBackbone(tower(), [2], SimplePyramid(32, channels=8))
    assert simple(images)["p6"].shape == (1, 8, 1, 1)


# ---- frozen ----


def test_a_frozen_tower_is_no_part_of_the_model(tower):
    backbone = build(tower())
    pyramid = {f"pyramid.{name}" for name in backbone.pyramid.state_dict()}
    assert set(backbone.state_dict()) == pyramid | {"tower_fingerprint"}
    assert {name for name, _ in backbone.named_parameters()} <= pyramid
    assert backbone.tower not in list(backbone.modules())
    backbone.train()
    assert not backbone.tower.training and not any(m.training for m in backbone.tower.modules())


def test_a_frozen_tower_neither_learns_nor_costs(tower):
    backbone = build(tower()).train()
    before = copy.deepcopy(backbone.tower.state_dict())
    optimizer = torch.optim.AdamW(param_groups(backbone, 0.1, decay_vectors=True), lr=0.1)
    outputs = backbone(torch.randn(2, 3, 32, 32))
    assert not outputs["dense"].requires_grad and outputs["p2"].requires_grad
    sum(outputs[name].square().sum() for name in backbone.level_names).backward()
    optimizer.step()
    assert all(not p.requires_grad and p.grad is None for p in backbone.tower.parameters())
    assert set(optimizer.state) == set(backbone.pyramid.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.tower.state_dict().items())


def test_a_frozen_tower_moves_with_the_model(tower):
    backbone = nn.Sequential(build(tower())).double().eval()[0]
    assert {p.dtype for p in backbone.tower.parameters()} == {torch.float64}
    assert backbone.tower.pixel_mean.dtype == torch.float64
    assert backbone(torch.randn(1, 3, 16, 16).double())["p2"].dtype == torch.float64


def test_a_copy_has_a_tower_of_its_own(tower):
    backbone = build(tower())
    other = copy.deepcopy(backbone).double()
    assert {p.dtype for p in backbone.tower.parameters()} == {torch.float32}
    assert {p.dtype for p in other.tower.parameters()} == {torch.float64}


def test_a_checkpoint_refuses_another_tower(tower, tmp_path):
    model = nn.Sequential(build(tower()))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert state["0.tower_fingerprint"].dtype == torch.uint8 and state["0.tower_fingerprint"].shape == (16,)
    nn.Sequential(build(tower())).load_state_dict(state)
    other = nn.Sequential(build(tower(seed=1)))
    ours, theirs = (bytes(m[0].tower_fingerprint.tolist()).hex() for m in (other, model))
    with pytest.raises(InputError, match=rf"another image tower: .*clip\.name.*{theirs}.*{ours}") as caught:
        other.load_state_dict(state, strict=False)
    assert "\n" not in str(caught.value)


def test_a_changed_value_changes_the_fingerprint(tower):
    one, two = tower(), tower()
    with torch.no_grad():
        next(two.parameters()).view(-1)[0] += 1e-6
    assert not torch.equal(build(one).tower_fingerprint, build(two).tower_fingerprint)
    assert torch.equal(build(one).tower_fingerprint, build(tower()).tower_fingerprint)


def test_a_checkpoint_without_a_fingerprint_is_incomplete(tower):
    backbone = build(tower())
    state = {name: value for name, value in backbone.state_dict().items() if name != "tower_fingerprint"}
    with pytest.raises(RuntimeError, match="tower_fingerprint"):
        backbone.load_state_dict(state)


# ---- trainable (Tab. A3) ----


@pytest.mark.parametrize("name", NAMES)
def test_a_trainable_tower_learns_at_its_own_rate(tower, name):
    backbone = build(tower(name), trainable=True).train()
    groups = param_groups(backbone, 0.1, lr=1e-2, lr_factors={"trained_tower": 0.01})
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    outputs = backbone(torch.randn(2, 3, 4 * backbone.tower.stride, 4 * backbone.tower.stride))
    sum(outputs[name].square().sum() for name in backbone.level_names).backward()
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.values())
    for name, p in trained.items():
        assert rates[id(p)] == pytest.approx(1e-4 if name.startswith("trained_tower") else 1e-2)
    blocks = {p for unit in backbone.tower.trainable_units() for p in unit.parameters()}
    unused = set(backbone.tower.unread_parameters("no_attn"))
    assert {p for name, p in trained.items() if name.startswith("trained_tower")} == blocks - unused


def test_a_trained_tower_is_restored(tower):
    """The state dict has what trains of it, and is refused beside another tower."""
    backbone, other = (nn.Sequential(build(tower(), trainable=True)) for _ in range(2))
    with torch.no_grad():
        for p in backbone.parameters():
            if p.requires_grad:
                p.add_(0.1)
    state = backbone.state_dict()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name for name in state if "trained_tower" in name} == {name for name in trained if "trained_tower" in name}
    other.load_state_dict(state)
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(other.eval()(images)["dense"], backbone.eval()(images)["dense"])
    with pytest.raises(InputError, match="another image tower"):
        build(tower(seed=1), trainable=True).load_state_dict(backbone[0].state_dict())


# ---- precision, bad input ----


def test_bfloat16(tower):
    backbone = build(tower()).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = backbone(torch.randn(2, 3, 32, 32))
        sum(outputs[name].float().square().sum() for name in backbone.level_names).backward()
    assert outputs["dense"].dtype == torch.float32
    assert all(torch.isfinite(x).all() for x in outputs.values())
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in backbone.parameters())


def test_bad_input(tower):
    with pytest.raises(InputError, match=r"clip\.name must not be a ResNet"):
        build(tower("tiny-resnet"))
    with pytest.raises(InputError, match="2 blocks for a pyramid that reads 4 maps"):
        CLIPBackbone(tower(), [1, 2], FPNPyramid(32, channels=8))
    with pytest.raises(InputError, match=r"blocks \[3\] do not exist: this tower has blocks 0\.\.2"):
        CLIPBackbone(tower(), [0, 1, 2, 3], FPNPyramid(32, channels=8))
    with pytest.raises(InputError, match="dense mode 'maskclip' is unknown"):
        build(tower(), dense_mode="maskclip")
    with pytest.raises(InputError, match="leave out the last one, 2"):
        CLIPBackbone(tower(), [0, 0, 1, 1], FPNPyramid(32, channels=8), trainable=True)
    with pytest.raises(InputError, match="backbone: square_size=100: not a multiple of the tower's stride 8"):
        build(tower(), square_size=100)
    with pytest.raises(InputError, match="multiples of the tower's stride 8"):
        build(tower())(torch.randn(1, 3, 30, 32))
