import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipself_d2.engine.optim import param_groups, warmup_cosine, warmup_multistep
from clipself_d2.errors import InputError


def test_only_trainable_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv2d(3, 2, 1), nn.Linear(2, 2))
    model.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
    model[3].requires_grad_(False)
    groups = param_groups(model, weight_decay=0.1)
    assert {id(p) for p in groups[0]["params"]} == {id(model[0].weight), id(model[2].weight)}
    others = [model[0].bias, model[1].weight, model[1].bias, model[2].bias, model.logit_scale]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in others}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_groups_without_members_are_left_out():
    assert len(param_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1


def test_nothing_trainable_is_said():
    with pytest.raises(InputError, match="trainable_blocks"):
        param_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def named_groups(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: {k: v for k, v in group.items() if k != "params"} for group in groups for p in group["params"]
    }


def test_everything_decays_on_request():
    """As in the released detectors: norms, biases and scalars too."""
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    model.register_parameter("temperature", nn.Parameter(torch.zeros(())))
    (group,) = param_groups(model, 0.1, decay_vectors=True)
    assert len(group["params"]) == 5 and group["weight_decay"] == 0.1 and "lr" not in group


def test_learning_rates_of_parts():
    model = nn.ModuleDict({"backbone": nn.Linear(4, 3), "head": nn.Linear(3, 2), "fixed": nn.Linear(2, 2)})
    model["fixed"].requires_grad_(False)
    found = named_groups(model, param_groups(model, 0.1, lr=1e-2, lr_factors={"backbone": 0.01}))
    assert found == {
        "backbone.weight": {"weight_decay": 0.1, "lr": pytest.approx(1e-4)},
        "backbone.bias": {"weight_decay": 0.0, "lr": pytest.approx(1e-4)},
        "head.weight": {"weight_decay": 0.1, "lr": 1e-2},
        "head.bias": {"weight_decay": 0.0, "lr": 1e-2},
    }
    optimizer = torch.optim.AdamW(param_groups(model, 0.1, lr=1e-2, lr_factors={"backbone": 0.01}), lr=1e-2)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [pytest.approx(1e-4), 1e-2]


def test_a_factor_of_nothing_and_a_factor_without_a_rate():
    with pytest.raises(InputError, match="no trainable parameter's name starts with 'backbone'"):
        param_groups(nn.Linear(2, 2), 0.1, lr=0.1, lr_factors={"backbone": 0.1})
    with pytest.raises(InputError, match="give lr too"):
        param_groups(nn.Linear(2, 2), 0.1, lr_factors={"weight": 0.1})


@given(st.integers(1, 3000), st.integers(0, 1500))
def test_schedule_is_the_released_one(max_iter, warmup):
    multiplier = warmup_cosine(max_iter, warmup)
    for step in {0, warmup - 1, warmup, warmup + 1, max_iter // 2, max_iter - 1}:
        if not 0 <= step < max_iter:
            continue
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            expected = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (max_iter - warmup)))
        assert multiplier(step / max_iter) == pytest.approx(expected, abs=1e-9)


@given(st.integers(20, 3000), st.integers(0, 3500), st.sampled_from([(), (2 / 3, 11 / 12), (0.9,)]))
def test_the_detectors_schedule(max_iter, warmup, milestones):
    """Linear from a thousandth, whatever the length of the run; then a tenth at each milestone."""
    multiplier = warmup_multistep(max_iter, warmup, milestones)
    passed = [round(m * max_iter) for m in milestones]
    for step in {0, 1, warmup - 1, warmup, warmup + 1, *passed, *(p - 1 for p in passed), max_iter - 1}:
        if not 0 <= step < max_iter or (step < warmup < max_iter and any(p <= warmup for p in passed)):
            continue  # a milestone inside the warm-up is nobody's schedule
        expected = 0.001 + 0.999 * step / warmup if step < warmup else 0.1 ** sum(step >= p for p in passed)
        assert multiplier(step / max_iter) == pytest.approx(expected, abs=1e-6)


def test_the_released_detectors_rates():
    """OV-LVIS: 48 epochs of 1,566 steps, a tenth after epochs 32 and 44."""
    epoch = 1566
    multiplier = warmup_multistep(48 * epoch, 250, milestones=[32 / 48, 44 / 48])
    rates = [multiplier((e * epoch - 1) / (48 * epoch)) for e in (1, 32, 33, 44, 45, 48)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert multiplier(0) == pytest.approx(0.001) and multiplier(125 / (48 * epoch)) == pytest.approx(0.5005)
