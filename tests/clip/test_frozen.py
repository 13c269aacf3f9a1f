import torch
from torch import nn

from clipself_d2.clip.frozen import FrozenModules


class Model(FrozenModules):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.first, self.second = nn.Linear(2, 2), nn.BatchNorm1d(2)
        kept = [self._modules.pop(name) for name in ("first", "second")]
        for module in kept:
            self.hold_frozen(module)
        self.kept = tuple(kept)


def test_what_is_held_aside_moves_along_and_is_nothing_else_of_the_module():
    model = Model().train()
    assert set(model.state_dict()) == {"own.weight", "own.bias"} == {name for name, _ in model.named_parameters()}
    assert not any(module.training or p.requires_grad for module in model.kept for p in module.parameters())
    model.double()
    assert {p.dtype for module in model.kept for p in module.parameters()} == {torch.float64}
    assert model.requires_grad_(True) is model
    assert not any(p.requires_grad for module in model.kept for p in module.parameters())


def test_modules_hold_their_own():
    one, other = Model(), Model()
    assert len(one._frozen) == len(other._frozen) == 2 and one._frozen[0] is not other._frozen[0]
    assert FrozenModules._frozen == ()
