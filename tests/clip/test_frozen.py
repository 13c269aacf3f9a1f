import copy

import torch
from torch import nn

from clipself_d2.clip.frozen import FrozenModules


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
