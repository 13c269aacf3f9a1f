import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipself_d2.errors import InputError
from clipself_d2.training.optim import param_groups, warmup_cosine


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
