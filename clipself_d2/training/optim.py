"""Parameter groups and learning-rate schedule of CLIPSelf's recipe; the optimiser itself is `torch.optim.AdamW`."""

from __future__ import annotations

from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import nn

from clipself_d2.errors import InputError


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; vectors and scalars (biases, norms, temperatures) do not.

    Args:
        model: any module; only parameters with `requires_grad` are taken.
        weight_decay: of the parameters with two dimensions or more.

    Raises:
        InputError: when nothing is trainable.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise InputError("model: no parameter is trainable; set model.trainable_blocks to 1 or more")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(max_iter: int, warmup_iters: int) -> ParamScheduler:
    """Multiplier of the learning rate: `(step + 1) / warmup_iters`, then half a cosine from 1 to 0.

    The schedule of the released code: at `step >= warmup_iters`, `0.5 * (1 + cos(pi * (step - w) / (max_iter - w)))`.

    Args:
        max_iter: number of optimiser steps of the run.
        warmup_iters: steps of the linear part; a run that is shorter never leaves it.
    """
    if warmup_iters == 0:
        return CosineParamScheduler(1.0, 0.0)
    # fvcore asks for the position of a step inside its part, in [0, 1): step s of w gets (s + 1) / w.
    length = min(warmup_iters, max_iter)
    warmup = LinearParamScheduler(1 / warmup_iters, (length + 1) / warmup_iters)
    if length == max_iter:
        return warmup
    return CompositeParamScheduler(
        [warmup, CosineParamScheduler(1.0, 0.0)],
        lengths=[length / max_iter, 1 - length / max_iter],
        interval_scaling=["rescaled", "rescaled"],
    )
