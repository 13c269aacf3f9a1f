"""The command line of `tools/benchmark.py`."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from clipself_d2.benchmark import data, detect, distill, evaluate, memory, panoptic, scale, teacher
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.engine.inference import resolve_device
from clipself_d2.errors import InputError

BENCHMARKS = {
    "distill": distill,
    "teacher": teacher,
    "evaluate": evaluate,
    "detect": detect,
    "panoptic": panoptic,
    "data": data,
    "memory": memory,
    "scale": scale,
}
"""Modules by the name of their sub-command: `add_arguments(parser)`, `run(args) -> numbers`, and a `table`
where that of this module does not fit."""

EXAMPLES = """
examples:
  python tools/benchmark.py distill --size 640
  python tools/benchmark.py teacher --batch 2 --crops 13
  python tools/benchmark.py evaluate --size 640 --batch 1
  python tools/benchmark.py panoptic --size 640 --masks 100
  python tools/benchmark.py data --images datasets/coco/train2017 --workers 0 2 4 8 --step-seconds 0.3
  python tools/benchmark.py memory --sizes 640 1024
  python tools/benchmark.py scale --size 320 --ranks 2
  python tools/benchmark.py detect
  python tools/benchmark.py detect --device cpu --model EVA02-B-16 --size 640 --batch 1 --precision bf16
  python tools/benchmark.py detect --device cuda --batch 8 model.rpn.post_nms_topk=[1000,300]

Ours and the reference take turns in one run, so that a busy machine slows both. The numbers are written to
output/benchmark/NAME-DEVICE.json.
"""


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    args.device = resolve_device(args.device)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no usable GPU; use --device cpu")
    benchmark = BENCHMARKS[args.name]
    numbers = {**benchmark.run(args), "machine": machine(args.device)}
    path = Path(args.output) / f"{args.name}-{args.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(numbers, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))
    console = Console()
    console.print(getattr(benchmark, "table", table)(f"{args.name}, {args.device}", numbers))
    console.print(f"written to {path}", highlight=False)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        InputError: for an unknown or missing argument.
    """
    parser = ArgumentParser(
        "benchmark.py",
        description="Measure speed and memory against a reference.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME", parser_class=ArgumentParser)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.__doc__, description=benchmark.__doc__)
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="%(default)s")
        command.add_argument("--output", default="output/benchmark", metavar="DIR", help="%(default)s")
        benchmark.add_arguments(command)
    return parser.parse_args(argv)


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def table(title: str, numbers: dict[str, Any]) -> Table:
    """What was timed, in milliseconds and as shares of the reference, with operations and memory where they are known;
    the parts of ours below it."""
    shown = Table(title=title)
    shown.add_column("")
    for heading in ("ms", "x reference", "GFLOP", "MiB"):
        shown.add_column(heading, justify="right")
    reference = numbers["reference"]

    def row(label: str, seconds: float, *more: str, style: str = "") -> None:
        shown.add_row(label, f"{1000 * seconds:.1f}", f"{seconds / reference:.2f}", *more, style=style)

    def known(values: dict[str, float | None], name: str, unit: float) -> str:
        value = values.get(name)
        return "" if value is None else f"{value / unit:.0f}"

    flops, memory = numbers.get("flops", {}), numbers.get("peak_memory_bytes", {})
    for name in ("reference", "tower", "cached", "ours"):
        if name in numbers:
            row(name, numbers[name], known(flops, name, 1e9), known(memory, name, 2**20))
    for part, seconds in numbers.get("parts", {}).items():
        row(f"  {part}", seconds, "", "", style="dim")
    said = [f"{100 * numbers['peak_fraction']:.0f} % of what the machine can do"] if "peak_fraction" in numbers else []
    said += [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in numbers.get("agreement", {}).items()]
    shown.caption = "; ".join(said)
    return shown
