"""What benchmarks have in common on the command line, and what they make of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig

from clipself_d2.engine.config import load_config
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError

IMAGE = (480, 640)
"""Height and width of most of COCO's photographs."""

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPEN_CLIP = "a CLIP of open_clip, or the path of its config"


def add_common(
    parser: argparse.ArgumentParser,
    model: str = OPEN_CLIP,
    batch: int | None = 1,
    rounds: int = 5,
    precision: str = "of ours; the reference is fp32",
) -> None:
    """Adds `--model`, `--batch`, `--precision` and `--rounds`.

    Args:
        parser: of a sub-command.
        model: what may be named.
        batch: images at once by default; None for a benchmark without such a number.
        rounds: by default.
        precision: what it is of.
    """
    add = parser.add_argument
    add("--model", default="EVA02-B-16", help=f"{model} (%(default)s)")
    if batch is not None:
        add("--batch", type=int, default=batch, metavar="N", help="images at once (%(default)s)")
    add("--precision", default="bf16", choices=sorted(PRECISIONS), help=f"{precision} (%(default)s)")
    add("--rounds", type=int, default=rounds, metavar="N", help="medians are over so many (%(default)s)")


def check_at_least(args: argparse.Namespace, **least: int) -> None:
    """Raises an InputError for the first number below its least: `check_at_least(args, batch=1)`."""
    for name, number in least.items():
        if getattr(args, name) < number:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {getattr(args, name)}: must be at least {number}")


def autocast(args: argparse.Namespace) -> torch.autocast:
    """The context of `--precision` on the device."""
    dtype = PRECISIONS[args.precision]
    return torch.autocast(args.device, dtype=dtype, enabled=dtype != torch.float32)


def random_config(args: argparse.Namespace, files: Mapping[str, str], size: str) -> DictConfig:
    """The config of `--model` with random weights, on the device and in the precision that are asked for.

    Args:
        args: with `model`, `size`, `device`, `precision` and `opts`.
        files: below `configs`, by the model's name.
        size: key of the config that `--size` sets.

    Raises:
        InputError: for an unknown model or override.
    """
    if args.model not in files:
        raise InputError(f"--model {args.model}: use one of {', '.join(files)}")
    asked = [f"{size}={args.size}"] if args.size is not None else []
    fixed = ["clip.pretrained=random", f"train.device={args.device}", f"train.precision={args.precision}"]
    return load_config(CONFIGS / files[args.model], [*fixed, *asked, *args.opts])
