"""Weak scaling: a step of CLIPSelf on one rank and on several, with as many images on each."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from rich.table import Table
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.benchmark.arguments import add_common, autocast, check_at_least
from clipself_d2.benchmark.distill import CONFIGS, load_distillation_config, write_photographs
from clipself_d2.benchmark.measure import medians
from clipself_d2.data import DistillationMapper
from clipself_d2.engine.config import build
from clipself_d2.engine.launch import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser, f"one of {', '.join(CONFIGS)}", rounds=3, precision="of all")
    add = parser.add_argument
    add("--size", type=int, metavar="PIXELS", help="side of the student's square (the config's)")
    add("--ranks", type=int, default=2, metavar="N", help="GPUs or CPU processes, of --batch images each (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights. CPU ranks have the same number of threads each, alone or not.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a step on one rank (`reference`) and on `ranks` (`ours`), gradients exchanged; `efficiency`, the one
        over the other; `settings`.

    Raises:
        InputError: for an unknown model or override, a number out of its range, or fewer devices than ranks.
    """
    check_at_least(args, ranks=2)
    load_distillation_config(args)  # says what is wrong before anything starts
    threads = max(1, torch.get_num_threads() // args.ranks)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, ranks in (("reference", 1), ("ours", args.ranks)):
            answer = Path(folder) / f"{name}.json"
            before = torch.get_num_threads()
            launch(_time_step, (vars(args), threads, str(answer)), device=args.device, ranks_per_machine=ranks)
            torch.set_num_threads(before)
            seconds[name] = json.loads(answer.read_text())
    said = ("model", "batch", "ranks", "precision", "rounds", "opts")
    settings = {"threads_of_a_rank": threads, **{name: getattr(args, name) for name in said}}
    return {**seconds, "efficiency": seconds["reference"] / seconds["ours"], "settings": settings}


def table(title: str, numbers: dict[str, Any]) -> Table:
    """One rank, and all."""
    ranks = numbers["settings"]["ranks"]
    shown = Table(title=title, caption=f"{100 * numbers['efficiency']:.0f} % of {ranks} times the speed of one rank")
    shown.add_column("ranks")
    shown.add_column("s a step", justify="right")
    shown.add_row("1", f"{numbers['reference']:.2f}")
    shown.add_row(str(ranks), f"{numbers['ours']:.2f}")
    return shown


def _time_step(options: dict[str, Any], threads: int, answer: str) -> None:
    """What each rank does; the first writes the median seconds."""
    args = argparse.Namespace(**options)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cfg = load_distillation_config(args)
    model = build(cfg, "model").to(args.device).train()
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    wrapped = model
    if comm.get_world_size() > 1:
        devices = [torch.cuda.current_device()] if args.device == "cuda" else None
        wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    mapper = DistillationMapper(build(cfg.dataloader.train.mapper, "regions"))
    with tempfile.TemporaryDirectory() as folder:
        photographs = write_photographs(Path(folder), args.batch)

        def step() -> None:
            rng = np.random.default_rng(0)
            samples = [mapper({"file_name": str(p), "image_id": i}, rng) for i, p in enumerate(photographs)]
            with autocast(args):
                loss = wrapped(samples)["loss_clipself"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds = medians({"step": step}, args.device, args.rounds)["step"]
    comm.synchronize()
    if comm.get_rank() == 0:
        Path(answer).write_text(json.dumps(seconds))
