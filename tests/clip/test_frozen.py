import copy

import pytest
import torch
from torch import nn

from clipself_d2.clip.frozen import FrozenModules, compile_towers
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


class Model(FrozenModules):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.hold_frozen("first", nn.Linear(2, 2))
        self.hold_frozen("second", nn.BatchNorm1d(2))


def test_frozen_modules_move_along_and_are_nothing_else_of_the_module():
    model = Model().train()
    frozen = (model.first, model.second)
    assert set(model.state_dict()) == {"own.weight", "own.bias"} == {name for name, _ in model.named_parameters()}
    assert not any(module.training or p.requires_grad for module in frozen for p in module.parameters())
    model.double()
    assert {p.dtype for module in frozen for p in module.parameters()} == {torch.float64}
    assert model.requires_grad_(True) is model
    assert not any(p.requires_grad for module in frozen for p in module.parameters())


def test_modules_hold_their_own():
    one, other = Model(), Model()
    assert one.first is not other.first and FrozenModules._frozen == ()
    copied = copy.deepcopy(one)
    assert copied.first is not one.first and torch.equal(copied.first.weight, one.first.weight)
    copied.double()
    assert one.first.weight.dtype == torch.float32


class Tower(ImageTower):
    def __init__(self):
        nn.Module.__init__(self)
        self.calls = []

    def compile(self, *args, **kwargs):
        self.calls.append((args, kwargs))

    matches = image_embeddings = features = masked_embeddings = trainable_units = None


class Holder(FrozenModules):
    def __init__(self):
        super().__init__()
        self.own = nn.ModuleList([nn.Linear(2, 2), Tower()])
        self.hold_frozen("teacher", Tower())


def test_all_towers_of_a_model_are_compiled_and_nothing_else(monkeypatch):
    monkeypatch.setattr(nn.Linear, "compile", lambda self: pytest.fail("a layer is compiled"))
    model = nn.Sequential(Holder(), nn.Linear(2, 2), Tower())
    compile_towers(model)
    towers = [model[0].own[1], model[0].teacher, model[2]]
    assert [tower.calls for tower in towers] == [[((), {})]] * 3
    with pytest.raises(InputError, match=r"train\.compile: this model has no image tower"):
        compile_towers(nn.Linear(2, 2))
