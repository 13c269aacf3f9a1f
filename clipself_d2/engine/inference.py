"""A trained model from a config, for evaluation and for tools that use it."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import nn

from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.config import build, train_settings
from clipself_d2.engine.settings import TrainSettings
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError, first_line


def resolve_device(name: str) -> str:
    """Resolve "auto": "cuda" where there is a GPU, else "cpu".

    Raises:
        InputError: "cuda" without a usable GPU, or "auto" with one whose driver is too old.
    """
    if name == "cpu" or torch.cuda.is_available():
        return "cuda" if name == "auto" else name
    try:
        torch.cuda.init()
        reason = "none is visible"
    except (AssertionError, RuntimeError) as error:
        reason = first_line(error)
    if name != "auto" or "too old" in reason:
        raise InputError(f"device {name}: no usable GPU ({reason}); fix that, or choose cpu (train.device=cpu)")
    return "cpu"


def check_precision(settings: TrainSettings) -> None:
    """Raise an InputError for "bf16" on a GPU without it."""
    if (
        resolve_device(settings.device) == "cuda"
        and settings.precision == "bf16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        name = torch.cuda.get_device_name()
        raise InputError(f"train.precision=bf16: {name} has no bfloat16; pass train.precision=fp16 or fp32")


def autocast(settings: TrainSettings) -> torch.autocast:
    """The context of `train.precision` on `train.device`."""
    precision = settings.precision
    return torch.autocast(resolve_device(settings.device), dtype=PRECISIONS[precision], enabled=precision != "fp32")


def load_trained(cfg: DictConfig, weights: str | None = "") -> nn.Module:
    """The model of a config with trained weights, on `train.device`, in evaluation mode.

    Args:
        cfg: from `load_config`; its `train.device` is resolved in place.
        weights: a `checkpoint_*.pth`. Empty: the newest one in `train.output_dir`, or `train.init_checkpoint`, if any,
            of a config that trains nothing. None leaves the model as it is built: with random weights, or of parts that
            bring their own.

    Raises:
        InputError: a device that does not exist, no checkpoint, or the checkpoint of another model.
    """
    cfg.train.device = resolve_device(cfg.train.device)
    settings = train_settings(cfg)
    check_precision(settings)
    model: nn.Module = build(cfg, "model").to(settings.device)
    if weights == "" and not cfg.dataloader.get("train"):
        weights = settings.init_checkpoint or None
    if weights == "":
        if Checkpointer(settings.output_dir, model=model).resume() is None:
            raise InputError(
                f"{settings.output_dir}: holds no checkpoint; train first, or pass --weights checkpoint_*.pth"
            )
    elif weights is not None:
        load_model(model, weights, settings.init_without)
    return model.eval()
