"""Configs from somebody else: what they may call."""

from __future__ import annotations

import re
from typing import Any

from detectron2.utils.registry import locate

from clipself_d2.errors import InputError

# Whose code a config from somebody else may import, and what of it it may call: parts of models, data and evaluation.
# The rest of these packages can start commands, load libraries or read Python files.
_PACKAGES = ("clipself_d2.", "detectron2.", "fvcore.", "timm.", "torch.", "torchvision.")
_HARMLESS = (
    *(f"clipself_d2.{part}." for part in ("clip", "vocabulary", "regions", "backbones", "data", "evaluation")),
    *(f"clipself_d2.{part}." for part in ("distillation", "detection", "panoptic", "semantic")),
    *(f"clipself_d2.miniature.{part}" for part in ("build_guide", "captions", "contrastive", "registration", "solo")),
    "clipself_d2.engine.config.on_device",
    "clipself_d2.engine.optim.",
    *(f"detectron2.{part}." for part in ("modeling", "layers", "data", "evaluation", "solver", "structures")),
    "fvcore.common.param_scheduler.",
    "timm.optim.",
    *(f"torch.{part}." for part in ("nn", "optim")),
    *(f"torchvision.{part}." for part in ("models", "ops", "transforms")),
)


def check_harmless(node: Any, where: str) -> None:
    """Check each `_target_` of a config, and that no value makes new ones.

    Args:
        node: the config as plain dictionaries and lists, interpolations unresolved.
        where: the file and the key of the node.

    Raises:
        InputError: names the first `_target_` or value that is not accepted.
    """
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "_target_":
            if not (isinstance(value, str) and value.startswith(_PACKAGES) and _name(value).startswith(_HARMLESS)):
                raise InputError(f"{where}: _target_ {value!s:.80} is not accepted with --untrusted-config")
        elif isinstance(value, str) and re.search(r"\$\{(?!oc\.env:|[\w.\[\]]+\})", value):  # ${oc.create:...}
            raise InputError(f"{where}.{key}: {value:.80} is not accepted with --untrusted-config")
        else:
            check_harmless(value, f"{where}.{key}")


def _name(path: str) -> str:
    """What the object at a path is called where it was defined: torch.nn.modules.os.system is posix.system."""
    try:
        called = locate(path)
        return f"{called.__module__}.{called.__qualname__}"
    except Exception:  # a module's code may raise anything
        return ""
