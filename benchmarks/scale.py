"""Measure weak scaling: a training step of CLIPSelf on one rank and on several, with `--batch` images on each.

  python benchmarks/scale.py --size 320 --ranks 2

With random weights, on images of noise. Ranks on the CPU have the same number of threads each, alone or together.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import arguments
from distill import CONFIG

from clipself_d2.command_line import exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_recipe(parser, CONFIG)
    arguments.add_size(parser, "the student's square")
    parser.add_argument("--ranks", type=arguments.at_least(2), default=2, metavar="N", help="GPUs or CPU processes")
    args = parser.parse_args(argv)

    import harness
    import torch

    from clipself_d2.engine.launch import launch

    harness.prepare(args)
    harness.load_random(args, model__student_size=args.size)  # wrong input is refused before ranks start
    threads = torch.get_num_threads()
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, args.ranks):
            answer = Path(folder) / f"{ranks}.json"
            share = max(1, threads // args.ranks)
            launch(time_step, (args, share, answer), device=args.device, ranks_per_machine=ranks)
            seconds[ranks] = json.loads(answer.read_text())
    torch.set_num_threads(threads)
    harness.report("scale", {"seconds": seconds, "efficiency": seconds[1] / seconds[args.ranks]}, args)


def time_step(args: argparse.Namespace, threads: int, answer: Path) -> None:
    """What each rank does; the first writes the mean seconds per step."""
    import harness
    import torch
    from detectron2.utils import comm
    from distill_steps import Step
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.benchmark import Timer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        step = Step(harness.load_random(args, model__student_size=args.size), Path(folder), args)
        if comm.get_world_size() > 1:
            devices = [torch.cuda.current_device()] if args.device == "cuda" else None
            step.network = DistributedDataParallel(step.model, device_ids=devices, gradient_as_bucket_view=True)
        # A fixed number of steps, for all ranks take them together.
        seconds = Timer("step()", globals={"step": step}, num_threads=threads).timeit(args.rounds).mean
    comm.synchronize()
    if comm.is_main_process():
        answer.write_text(json.dumps(seconds))


if __name__ == "__main__":
    sys.exit(main())
