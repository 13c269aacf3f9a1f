"""A trained model from a config, for evaluation and for tools that use it."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import nn

from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.config import build, train_settings
from clipself_d2.engine.settings import TrainSettings
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError


def resolve_device(name: str) -> str:
    """Resolve "auto": "cuda" where there is a device, else "cpu"."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def autocast(settings: TrainSettings) -> torch.autocast:
    """The context of `train.precision` on `train.device`."""
    precision = settings.precision
    return torch.autocast(resolve_device(settings.device), dtype=PRECISIONS[precision], enabled=precision != "fp32")


def load_trained(cfg: DictConfig, weights: str | None = "latest") -> nn.Module:
    """The model of a config with trained weights, on `train.device`, in evaluation mode.

    Args:
        cfg: from `load_config`; its `train.device` is resolved in place.
        weights: a `checkpoint_*.pth`; "latest" for the newest one in `train.output_dir`; None leaves the model as it is
            built: with random weights, or of parts that bring their own.

    Raises:
        InputError: a device that does not exist, no checkpoint, or the checkpoint of another model.
    """
    cfg.train.device = resolve_device(cfg.train.device)
    settings = train_settings(cfg)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device=cuda: this machine has no usable GPU; pass train.device=cpu")
    model: nn.Module = build(cfg, "model").to(settings.device)
    if weights == "latest":
        if Checkpointer(settings.output_dir, model=model).resume() is None:
            raise InputError(
                f"{settings.output_dir}: holds no checkpoint; train first, or pass --weights checkpoint_*.pth"
            )
    elif weights is not None:
        load_model(model, weights, settings.init_without)
    return model.eval()
