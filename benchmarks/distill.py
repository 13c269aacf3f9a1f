"""Time a training step of CLIPSelf (data, teacher, student, update) against the released recipe's arithmetic.

  python benchmarks/distill.py --size 640
  python benchmarks/distill.py --device cuda --batch 2 model.activation_checkpointing=true

With random weights, on images of noise. The reference reads the padded square, holds attention's matrix, works in fp32,
sends crops through the teacher one by one, and updates parameter by parameter. `cached` is our step with all teacher
embeddings on disk, `student` its forward and backward alone. Before the timing, losses and gradients must agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import arguments

from clipself_d2.command_line import exit_codes

CONFIG = "distillation/clipself_eva02_b16_coco_patches.py"


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_recipe(parser, CONFIG)
    arguments.add_size(parser, "the student's square")
    args = parser.parse_args(argv)

    import harness
    from distill_steps import ReferenceStep, Step, Student, agree

    from clipself_d2.distillation import TeacherCache

    harness.prepare(args)
    cfg = harness.load_random(args, model__student_size=args.size)
    with tempfile.TemporaryDirectory() as folder:
        ours = Step(cfg, Path(folder), args)
        plain, student = ReferenceStep(ours), Student(ours)
        agreement = agree(ours, plain)
        cache = TeacherCache(f"{folder}/cache")
        cache.attach(ours.model.teacher, ours.model.teacher_size)
        with ours.autocast:
            cache.open(ours.records, ours.mapper)

        def cached() -> None:
            ours.model.teacher_cache = cache
            ours()
            ours.model.teacher_cache = None

        cached()  # fills the cache
        calls = {"reference": plain, "ours": ours, "cached": cached, "student": student}
        numbers = harness.measure("distill", calls, args)
        flops = student.flops()
    seconds = numbers["seconds"]
    numbers = {
        **numbers,
        "ratio": harness.ratios({name: seconds[name] for name in ("reference", "ours", "cached")}, "reference"),
        "student_flops": flops,
        "student_flops_per_second": flops / seconds["student"],
        "agreement": agreement,
    }
    harness.report("distill", numbers, args)


if __name__ == "__main__":
    sys.exit(main())
