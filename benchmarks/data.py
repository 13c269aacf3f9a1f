"""Time the loading of a distillation's batches against the released recipe's, for several numbers of workers.

  python benchmarks/data.py --images datasets/coco/train2017 --workers 0 2 4 8

Ours leaves resizing and cutting to the model, on its device. The reference cuts and resizes everything by Pillow, into
floats, with crops padded to 20 per image. Before the timing, the crops of both must agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import arguments

from clipself_d2.command_line import exit_codes


def take(batches: Iterator[Any], count: int) -> None:
    """Load some batches."""
    for _ in range(count):
        next(batches)


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    add = parser.add_argument
    add("--images", metavar="DIR", help="a folder of images (some of 640 x 480 are made)")
    add("--workers", type=arguments.at_least(0), nargs="+", default=[0, 1, 2, 4], metavar="N", help="%(default)s")
    add("--student-size", type=arguments.at_least(1), default=1024, metavar="PIXELS", help="%(default)s")
    add("--teacher-size", type=arguments.at_least(1), default=224, metavar="PIXELS", help="%(default)s")
    add("--reduce", action="store_true", help="ours decodes large JPEGs at the scale that these sizes need")
    add("--batches", type=arguments.at_least(1), default=12, metavar="N", help="timed in each round (%(default)s)")
    parser.set_defaults(batch=2, rounds=3)
    args = parser.parse_args(argv)

    import harness
    from data_reference import ReferenceMapper, agree

    from clipself_d2.data import DistillationMapper, build_train_loader, load_image_list
    from clipself_d2.regions import GridRegions

    harness.prepare(args)
    sizes = (args.student_size, args.teacher_size)
    mappers: dict[str, Any] = {
        "ours": DistillationMapper(GridRegions(), min_decode_size=sizes if args.reduce else None),
        "reference": ReferenceMapper(*sizes),
    }
    with tempfile.TemporaryDirectory() as folder:
        if not args.images:
            harness.write_images(Path(folder), 16)
        records = load_image_list(None, args.images or folder)
        agreement = agree(records[0], *sizes)
        # A turn's warm-up takes what the workers have loaded in the meantime.
        loaders = {
            f"{path}, {workers} workers": iter(build_train_loader(records, mapper, args.batch, 0, workers))
            for workers, (path, mapper) in product(args.workers, mappers.items())
        }
        calls = {name: partial(take, batches, args.batches) for name, batches in loaders.items()}
        seconds = harness.time_in_turns(f"{args.batches} batches of {args.batch} images", calls, args.rounds)
    speed = {name: args.batch * args.batches / value for name, value in seconds.items()}
    ratio = {f"{n} workers": speed[f"ours, {n} workers"] / speed[f"reference, {n} workers"] for n in args.workers}
    harness.report("data", {"images_per_second": speed, "ratio": ratio, "agreement": agreement}, args)


if __name__ == "__main__":
    sys.exit(main())
