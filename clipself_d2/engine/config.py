"""Reading a LazyConfig: a file, then `key=value` overrides, then a check of every key before anything is built."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import locate
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from clipself_d2.engine.settings import TrainSettings
from clipself_d2.engine.untrusted import check_harmless
from clipself_d2.errors import InputError, first_line
from clipself_d2.files import find_config

# `build` reports in one line what Detectron2 would log with a traceback.
logging.getLogger("detectron2.config.instantiate").setLevel(logging.CRITICAL)

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(path: str | Path, overrides: Sequence[str] = (), *, untrusted: bool = False) -> DictConfig:
    """Read a config file and apply overrides.

    A `.py` file is executed, and `_target_` of a `.yaml` may name any function of any package.

    Args:
        path: a LazyConfig `.py` file, the `config.yaml` that a run wrote, or a name that `find_config` knows.
        overrides: `key=value` with dots in the key; values in Hydra's grammar (numbers, true, null, [1,2], text).
        untrusted: read a `.yaml` alone, and accept only parts of models, data sets and evaluators of this package,
            Detectron2, torch and torchvision as `_target_`.

    Returns:
        The config, its `train` section completed with the defaults of `TrainSettings`; `train.output_dir` defaults to
        `output/NAME` for the file `NAME.py`.

    Raises:
        InputError: for an unreadable file, a missing section, an unknown key (with its nearest match), a bad value, or
            a `_target_` that is not accepted.
    """
    file = find_config(path)
    if untrusted and file.suffix == ".py":
        raise InputError(f"{path}: is Python, which is executed; --untrusted-config takes a run's config.yaml")
    cfg = _read(file)
    if untrusted:
        check_harmless(OmegaConf.to_container(cfg, resolve=False), str(path))
    _check_sections(cfg, str(path))
    known = asdict(TrainSettings()) | {"output_dir": f"output/{file.stem}"}
    _check_keys(cfg.train, known, f"{path}: train")
    cfg.train = OmegaConf.merge(known, cfg.train)
    before: dict[str, Any] = {}
    overrides = [re.sub(r"^([\w.]+=['\"]?)~(?=/|['\"]?$)", rf"\g<1>{Path.home()}", given) for given in overrides]
    for override in overrides:  # one after another: each is checked against what those before it have made
        _check_override(cfg, override)
        key = override.partition("=")[0]
        before.setdefault(key, _value_or_default(cfg, key))
        try:
            LazyConfig.apply_overrides(cfg, [override])
        except (HydraException, OmegaConfBaseException, KeyError) as error:
            raise InputError(f"{override}: {first_line(error)}") from error
    if untrusted:
        check_harmless(OmegaConf.to_container(cfg, resolve=False), str(path))
    _check_sections(cfg, " ".join(overrides))
    for key, old in before.items():
        _check_kind(key, old, _value(cfg, key))
    _check_targets(cfg, "")
    cfg.train.output_dir = str(Path(train_settings(cfg).output_dir).expanduser())
    return cfg


def build(cfg: DictConfig, section: str) -> Any:
    """Build what a section of a config describes.

    Args:
        cfg: from `load_config`.
        section: its key, with dots.

    Raises:
        InputError: for a value that a constructor refuses (ValueError, or TypeError for a wrong container).
    """
    try:
        return instantiate(OmegaConf.select(cfg, section))
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        hint = " (a value of the wrong type?)" if isinstance(error, TypeError) else ""
        raise InputError(f"{section}: {first_line(error)}{hint}") from error


def target(node: DictConfig) -> Any:
    """The class or function that a node calls."""
    called = node["_target_"]
    return locate(called) if isinstance(called, str) else called


def on_device(module: nn.Module, device: str) -> nn.Module:
    """Move a module, for a config that needs one on `device="${train.device}"`."""
    return module.to(device)


def train_settings(cfg: DictConfig) -> TrainSettings:
    """The `train` section as a checked dataclass, interpolations resolved.

    Raises:
        InputError: for a value of the wrong type or outside its range.
    """
    try:
        values = OmegaConf.to_container(cfg.train, resolve=True)
        return cast(TrainSettings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainSettings), values)))
    except OmegaConfBaseException as error:
        raise InputError(f"{'.'.join(filter(None, ['train', error.full_key]))}: {first_line(error)}") from error


def _read(path: Path) -> DictConfig:
    try:
        if path.suffix == ".py":
            return LazyConfig.load(str(path))
        # LazyConfig.load would read yaml with the unsafe loader.
        cfg = OmegaConf.create(yaml.safe_load(path.read_text()), flags={"allow_objects": True})
        if not isinstance(cfg, DictConfig):
            raise InputError(f"{path}: is not a mapping of sections")
        return cfg
    except (SyntaxError, ImportError, NameError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: {first_line(error)}") from error


def _check_sections(cfg: DictConfig, source: str) -> None:
    for name in SECTIONS:
        if not isinstance(cfg.get(name), DictConfig):
            raise InputError(f"{source}: has no section '{name}'; see configs/common for examples")


def _check_keys(node: DictConfig, known: dict[str, Any], where: str) -> None:
    for key in node:
        if str(key) not in known:
            raise _unknown(f"{where}.{key!s}", str(key), known)
        if isinstance(known[str(key)], dict):
            _check_keys(node[key], known[str(key)], f"{where}.{key!s}")


def _value(cfg: DictConfig, key: str) -> Any:
    """The value of a key with dots, interpolations resolved; None where there is none."""
    return OmegaConf.select(cfg, key, throw_on_resolution_failure=False)


def _value_or_default(cfg: DictConfig, key: str) -> Any:
    """The value of a key with dots, or the default of the target's argument of that name."""
    parent, _, name = key.rpartition(".")
    node = _value(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig) and name not in node:
        default = (_arguments(node) or {}).get(name, inspect.Parameter.empty)
        return None if default is inspect.Parameter.empty else default
    return _value(cfg, key)


def _check_kind(key: str, old: Any, new: Any) -> None:
    """Raise an InputError where text replaces a number, or a number a list or a section."""
    wanted = ""
    if isinstance(old, int | float) and isinstance(new, str):
        wanted = "true or false" if isinstance(old, bool) else "a number"
    elif isinstance(old, ListConfig | list | tuple) and isinstance(new, int | float):
        wanted = f"a list: '{key}=[{new}]'"
    elif isinstance(old, DictConfig) and isinstance(new, int | float):
        wanted = f"a section; override a value in it: '{key}.NAME=...'"
    if wanted:
        raise InputError(f"{key}={new}: must be {wanted}")


def _check_override(cfg: DictConfig, override: str) -> None:
    """Raise an InputError unless each part of the key is in the config, or an argument of its target."""
    key, equals, _ = override.partition("=")
    if not equals:
        raise InputError(f"{override}: an override has the form key=value")
    node: Any = cfg
    parts = key.split(".")
    for i, part in enumerate(parts):
        if isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, DictConfig) and (part in node or part in (_arguments(node) or ())):
            linked = OmegaConf.is_interpolation(node, part)
            if linked and parts[i + 1 :]:  # the override would replace the link by the one value
                link = cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))[part]
                there = ".".join([str(link).strip("${}"), *parts[i + 1 :]])
                raise InputError(f"{key}: {'.'.join(parts[: i + 1])} is {link}; override {there} instead")
            node = node.get(part) if not linked and part in node else None
        else:
            known = [*node, *(_arguments(node) or ())] if isinstance(node, DictConfig) else []
            raise _unknown(key, part, known)


def _check_targets(node: Any, where: str) -> None:
    """Raise an InputError unless each key beside a `_target_` is its argument, and each `${...}` resolves."""
    if not OmegaConf.is_config(node):
        return
    arguments = _arguments(node) if isinstance(node, DictConfig) else None
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        path = f"{where}.{key!s}".lstrip(".")
        if arguments is not None and key != "_target_" and key not in arguments:
            raise _unknown(path, str(key), arguments)
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            raise InputError(f"{path}: {first_line(error)}") from error
        if not OmegaConf.is_interpolation(node, cast(str, key)):
            _check_targets(value, path)


def _arguments(node: DictConfig) -> dict[str, Any] | None:
    """Arguments of a node's target and their defaults; None for a plain dictionary and a target that takes any.

    A class with ``**options`` hands them on to its base class, whose arguments are its own too.
    """
    if node.get("_target_") is None:
        return None
    called, arguments = target(node), dict[str, Any]()
    for owner in called.__mro__ if isinstance(called, type) else (called,):
        if owner in (nn.Module, object):  # it never said what it takes
            return None
        try:
            parameters = inspect.signature(owner).parameters.values()
        except (TypeError, ValueError):
            return None
        arguments = {p.name: p.default for p in parameters if p.kind != p.VAR_KEYWORD} | arguments
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return arguments
    return None


def _unknown(path: str, key: str, known: Iterable[Any]) -> InputError:
    nearest = get_close_matches(key, [str(name) for name in known], 1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(map(str, known)) or 'nothing'}"
    return InputError(f"{path}: unknown config key '{key}'; {hint}")
