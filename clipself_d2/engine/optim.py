"""Parameter groups and learning-rate schedule of CLIPSelf's recipe; the optimizer itself is `torch.optim.AdamW`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import nn

from clipself_d2.errors import InputError


def param_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_vectors: bool = False,
    lr: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters: matrices decay; vectors and scalars (biases, norms, temperatures) do not.

    Args:
        model: any module; only parameters with `requires_grad` are taken.
        weight_decay: of the parameters that decay.
        decay_vectors: decay everything, as the released detectors do.
        lr: the optimizer's learning rate, which `lr_factors` multiply.
        lr_factors: for parameters whose name starts with a key (``backbone.trained_tower``) a factor of the rate.

    Raises:
        InputError: when nothing is trainable, a factor comes without `lr`, or its key fits no parameter.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise InputError("model: no parameter is trainable; set model.trainable_blocks to 1 or more")
    factors = dict(lr_factors or {})
    if factors and lr is None:
        raise InputError("optimizer.params: lr_factors multiply a learning rate: give lr too")
    if unused := [key for key in factors if not any(name.startswith(key) for name in trainable)]:
        raise InputError(f"optimizer.params.lr_factors: no trainable parameter's name starts with {unused[0]!r}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for decays in (True, False):
        for name, p in trainable.items():
            if (decay_vectors or p.ndim >= 2) == decays:
                factor = next((f for key, f in factors.items() if name.startswith(key)), 1.0)
                groups.setdefault((factor, weight_decay if decays else 0.0), []).append(p)
    return [
        {"params": params, "weight_decay": decay, **({"lr": lr * factor} if lr is not None else {})}
        for (factor, decay), params in groups.items()
    ]


def warmup_cosine(max_iter: int, warmup_iters: int) -> ParamScheduler:
    """Multiplier of the learning rate: `(step + 1) / warmup_iters`, then half a cosine from 1 to 0.

    The schedule of the released code: at `step >= warmup_iters`, `0.5 * (1 + cos(pi * (step - w) / (max_iter - w)))`.

    Args:
        max_iter: number of optimizer steps of the run.
        warmup_iters: steps of the linear part; a shorter run stops inside it.
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


def warmup_multistep(
    max_iter: int, warmup_iters: int, milestones: Sequence[float] = (), warmup_factor: float = 0.001, gamma: float = 0.1
) -> ParamScheduler:
    """Multiplier of the learning rate: linear from `warmup_factor` to 1, then times `gamma` at each milestone.

    Args:
        max_iter: number of optimizer steps of the run.
        warmup_iters: steps of the linear part; a shorter run stops inside it.
        milestones: fractions of the run, 0..1; none for a constant rate (the released detectors on OV-COCO).
        warmup_factor: first value.
        gamma: factor at each milestone.
    """
    if max_iter <= warmup_iters:
        return LinearParamScheduler(warmup_factor, warmup_factor + (1 - warmup_factor) * max_iter / warmup_iters)
    steps: ParamScheduler = ConstantParamScheduler(1.0)
    if milestones:
        values = [gamma**passed for passed in range(len(milestones) + 1)]
        steps = MultiStepParamScheduler(values, max_iter, milestones=[round(m * max_iter) for m in milestones])
    return WarmupParamScheduler(steps, warmup_factor, warmup_iters / max_iter, "linear")
