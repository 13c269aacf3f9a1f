"""Time what a GPU would gain from a second stream for the teacher, and from CUDA graphs.

  python benchmarks/streams.py --device cuda --size 1024 --batch 2

`ours` is a step's work on the GPU: the teacher's crops, then the student's forward and backward. `two streams` does
both at once. `tower` is the student's forward alone; `graph` replays it without the host; `compiled` and `compiled
graph` are the same with compiled blocks. A CPU has neither streams nor graphs. With random weights, on images of noise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
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
    arguments.add_size(parser, "the student's square")
    args = parser.parse_args(argv)

    import harness
    import torch
    from distill_steps import Step, Student

    harness.prepare(args)
    cfg = harness.load_random(args, model__student_size=args.size)
    with tempfile.TemporaryDirectory() as folder:
        step = Step(cfg, Path(folder), args)
        student, boxes = Student(step), [x["crop_boxes"].tensor for x in step.read()]

    def teacher() -> None:
        with step.autocast:
            step.model.embed_crops(student.images, boxes)

    def tower() -> Any:
        with torch.no_grad(), step.autocast:
            return step.model.tower.dense_embeddings(pixels)

    def ours() -> None:
        teacher()
        student()

    pixels = step.model.letterbox(student.images).pixels
    calls: dict[str, Callable[[], Any]] = {"ours": ours, "teacher": teacher, "student": student, "tower": tower}
    if args.device == "cuda":
        calls |= {"two streams": on_two_streams(teacher, student), "graph": captured(tower)}
    numbers = harness.measure("streams", calls, args)
    if args.device == "cuda":
        step.model.tower.compile()
        compiled = {"compiled": tower, "compiled graph": captured(tower)}
        numbers["seconds"] |= harness.time_in_turns("streams, compiled", compiled, args.rounds)
    harness.report("streams", numbers, args)


def on_two_streams(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], None]:
    """Both calls at once; the second is on the current stream, which waits for the first at its end."""
    import torch

    other = torch.cuda.Stream()

    def both() -> None:
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            first()
        second()
        torch.cuda.current_stream().wait_stream(other)

    return both


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """The replay of a call's CUDA graph."""
    import torch

    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):  # captures what a second call does: tables are made and kernels chosen in the first
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(other)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


if __name__ == "__main__":
    sys.exit(main())
