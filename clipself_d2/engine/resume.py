"""What a checkpoint holds beside the model: the optimizer's moments, and the config of the run that wrote it."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)


class OptimizerState:
    """The moments of an optimizer by parameter name. Learning rates and other settings are always the config's.

    Args:
        optimizer: of parameters of `model`.
        model: gives the names.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self.optimizer = optimizer
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.parameters = {names[each]: each for group in optimizer.param_groups for each in group["params"]}
        self.known = set(names.values())

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's `state`, and the `names` of the parameters that it numbers."""
        return {"state": self.optimizer.state_dict()["state"], "names": list(self.parameters)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the moments of the parameters that train.

        Raises:
            ValueError: moments of an unknown parameter, of another optimizer, or of another shape.
        """
        saved = {state_dict["names"][number]: moments for number, moments in state_dict["state"].items()}
        if unknown := set(saved) - self.known:
            raise ValueError(f"it has moments of {min(map(str, unknown))}, which the model does not have")
        groups = self.optimizer.state_dict()["param_groups"]
        group_of = {number: group for group in groups for number in group["params"]}
        expected: dict[Any, dict[str, str]] = {}  # by what an optimizer may decide by
        state = {}
        for number, (name, parameter) in enumerate(self.parameters.items()):
            if name in saved:
                group = group_of[number]
                kind = id(group), parameter.shape
                if kind not in expected:
                    expected[kind] = _kinds(self._example(group, parameter))
                if _kinds(saved[name]) != expected[kind]:
                    raise ValueError(
                        f"the moments of {name} are {_text(_kinds(saved[name]))} instead of {_text(expected[kind])}"
                    )
                state[number] = saved[name]
        for group in groups:
            group["initial_lr"] = group["lr"]  # the schedule multiplies it
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _example(self, group: dict[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
        """What this optimizer keeps of a parameter of a group."""
        other = nn.Parameter(torch.zeros_like(parameter))
        other.grad = torch.zeros_like(parameter)
        optimizer = copy.copy(self.optimizer)
        optimizer.param_groups = [{**group, "params": [other]}]
        optimizer.state = defaultdict(dict)
        optimizer.step()
        return optimizer.state[other]


class ConfigRecord:
    """The config of a run, to tell what a resumed one changes, and to refuse what could have no effect.

    Args:
        cfg: from `load_config`, before anything is built.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.values = {"ranks": str(comm.get_world_size())}
        self.values |= flatten(cfg)
        self.values.pop("train.output_dir", None)  # a folder may move

    def state_dict(self) -> dict[str, str]:
        """Each value as text, by its key with dots."""
        return dict(self.values)

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Log what differs from the run that wrote the checkpoint.

        Raises:
            InputError: a value that only counts at the start differs; the line names its key.
        """
        keys = sorted(state_dict.keys() | self.values.keys())
        changed = {key: (state_dict.get(key), self.values.get(key)) for key in keys}
        changed = {key: (old, new) for key, (old, new) in changed.items() if old != new}
        for key, (old, new) in changed.items():
            if _counts_at_the_start(key) and Path(str(old)).name != Path(str(new)).name:
                raise InputError(
                    f"{key}={new} would have no effect: the run started with {old}, and the checkpoint has taken its "
                    "place; leave it as it was, or start in another train.output_dir"
                )
        if changed:
            text = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
            logger.info("Other settings than those of the run that wrote the checkpoint: %s", text)


def _counts_at_the_start(key: str) -> bool:
    """Whether the checkpoint replaces what the value makes: initial weights, the kind of optimizer."""
    fixed = ("train.init_checkpoint", "train.init_without", "optimizer._target_", "clip.pretrained")
    return key in fixed or (key.startswith("model.") and key.endswith(".pretrained"))


def flatten(cfg: DictConfig) -> dict[str, str]:
    """Each value of a config as text, by its key with dots."""
    values: dict[str, str] = {}
    _flatten(OmegaConf.to_container(cfg, resolve=False), "", values)
    return values


def _flatten(value: Any, key: str, values: dict[str, str]) -> None:
    if isinstance(value, dict | list) and value:
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _flatten(each, f"{key}.{name}".lstrip("."), values)
    elif isinstance(value, type) or callable(value):
        values[key] = f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    elif isinstance(value, str | int | float | list | dict | None):
        values[key] = str(value)
    else:  # its text might be another one in every process
        values[key] = type(value).__qualname__


def _kinds(moments: dict[str, Any]) -> dict[str, str]:
    """The shapes of moments, and the types of what is no tensor."""
    found = {}
    for key, value in moments.items():
        if value is not None:
            found[key] = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
    return found


def _text(kinds: dict[str, str]) -> str:
    return ", ".join(f"{key} {kind}" for key, kind in kinds.items()) or "none"
