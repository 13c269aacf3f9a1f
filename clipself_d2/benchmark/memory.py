"""Memory and seconds of a step of CLIPSelf by tower and size, with and without activation checkpointing."""

from __future__ import annotations

import argparse
import gc
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from tqdm import tqdm

from clipself_d2.benchmark.arguments import autocast
from clipself_d2.benchmark.distill import CONFIGS, Step, load_distillation_config, write_photographs
from clipself_d2.benchmark.measure import medians, peak_memory
from clipself_d2.data import DistillationMapper
from clipself_d2.engine.config import build
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add = parser.add_argument
    add("--models", nargs="+", default=["EVA02-B-16", "EVA02-L-14-336"], metavar="NAME", help="%(default)s")
    add("--sizes", nargs="+", type=int, default=[640, 896, 1024], metavar="PIXELS", help="%(default)s")
    add("--batch", type=int, default=1, metavar="N", help="images at once (%(default)s)")
    add("--precision", default="bf16", choices=sorted(PRECISIONS), help="%(default)s")
    add("--rounds", type=int, default=1, metavar="N", help="medians are over so many (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides: model.skip_padding=False")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights. A size is rounded to the nearest that the tower reads.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        `rows`: for each model, size and checkpointing the seconds of a step and the most bytes in use, with weights,
        teacher and optimiser; `settings`.

    Raises:
        InputError: for an unknown model or override, or a number out of its range.
    """
    if unknown := [name for name in args.models if name not in CONFIGS]:
        raise InputError(f"--models {unknown[0]}: use some of {', '.join(CONFIGS)}")
    rows = []
    for case in tqdm(list(product(args.models, args.sizes, (False, True))), "steps"):
        rows.append(_measure(args, *case))
        tqdm.write(_line(rows[-1]))  # a long run that is stopped has told what it had
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    said = ("batch", "precision", "rounds", "opts")
    return {"rows": rows, "settings": {name: getattr(args, name) for name in said}}


def table(title: str, numbers: dict[str, Any]) -> Table:
    """A line a step."""
    shown = Table(title=title)
    shown.add_column("")
    for heading in ("pixels", "checkpointing", "s", "GiB"):
        shown.add_column(heading, justify="right")
    for row in numbers["rows"]:
        memory = "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.2f}"
        checkpointing = "yes" if row["checkpointing"] else "no"
        shown.add_row(row["model"], str(row["size"]), checkpointing, f"{row['seconds']:.2f}", memory)
    return shown


def _line(row: dict[str, Any]) -> str:
    memory = "" if row["peak_memory_bytes"] is None else f", {row['peak_memory_bytes'] / 2**30:.2f} GiB"
    checkpointing = ", checkpointing" if row["checkpointing"] else ""
    return f"{row['model']}, {row['size']} pixels{checkpointing}: {row['seconds']:.2f} s{memory}"


def _measure(args: argparse.Namespace, name: str, size: int, checkpointing: bool) -> dict[str, Any]:
    stride = 14 if "-14" in name else 16
    opts = [f"train.activation_checkpointing={str(checkpointing).lower()}", *args.opts]
    chosen = {"model": name, "size": round(size / stride) * stride, "opts": opts}
    cfg = load_distillation_config(argparse.Namespace(**{**vars(args), **chosen}))
    model = build(cfg, "model").to(args.device).train()
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    with tempfile.TemporaryDirectory() as folder:
        photographs = write_photographs(Path(folder), args.batch)
        mapper = DistillationMapper(build(cfg.dataloader.train.mapper, "regions"))
        step = Step(model, optimizer, photographs, mapper, autocast(args))
        seconds = medians({"step": step}, args.device, args.rounds)["step"]
        memory = peak_memory(step, args.device)
    return {
        "model": name,
        "size": model.student_size,
        "checkpointing": checkpointing,
        "seconds": seconds,
        "peak_memory_bytes": memory,
    }
