"""Measure memory and seconds of a training step of CLIPSelf by size, with and without activation checkpointing.

  python benchmarks/memory.py --sizes 672 1008
  python benchmarks/memory.py --config-file configs/distillation/clipself_eva02_l14_336_coco_patches.py

With random weights, on images of noise; weights, teacher and optimizer are included.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import arguments
from distill import CONFIG

from clipself_d2.command_line import exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_recipe(parser, CONFIG)
    # Multiples of 14 and of 16.
    parser.add_argument("--sizes", nargs="+", type=int, default=[672, 896, 1008], metavar="PIXELS", help="%(default)s")
    parser.set_defaults(rounds=1)
    args = parser.parse_args(argv)

    import harness

    harness.prepare(args)
    rows = [measure_step(args, *case) for case in product(args.sizes, (False, True))]
    print(f"{'pixels':>8}{'checkpointing':>15}{'s':>8}{'GiB':>8}")
    for row in rows:
        gib = (row["peak_memory_bytes"] or float("nan")) / 2**30
        print(f"{row['size']:>8}{row['checkpointing']!s:>15}{row['seconds']:>8.2f}{gib:>8.2f}")
    harness.report("memory", {"rows": rows}, args)


def measure_step(args: argparse.Namespace, size: int, checkpointing: bool) -> dict[str, Any]:
    """One step of this size."""
    import harness
    import torch
    from distill_steps import Step

    cfg = harness.load_random(args, model__student_size=size, train__activation_checkpointing=checkpointing)
    with tempfile.TemporaryDirectory() as folder:
        step = Step(cfg, Path(folder), args)
        seconds = harness.time_in_turns(f"{size} pixels, checkpointing {checkpointing}", {"step": step}, args.rounds)
        memory = harness.peak_memory(step, args.device)
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
    return {"size": size, "checkpointing": checkpointing, "seconds": seconds["step"], "peak_memory_bytes": memory}


if __name__ == "__main__":
    sys.exit(main())
