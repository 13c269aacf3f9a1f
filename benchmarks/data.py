"""Time the loading of a distillation's batches against the released recipe's, for several numbers of workers.

  python benchmarks/data.py --images datasets/coco/train2017 --workers 0 2 4 8

Ours leaves resizing and cutting to the model, on its device. The reference cuts and resizes everything by Pillow, into
floats, with crops padded to 20 per image. Before the timing, the crops of both must agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import harness
import numpy as np
import reference
import torch
from torch import Tensor

from clipself_d2.command_line import exit_codes
from clipself_d2.data import DistillationMapper, build_train_loader, load_image_list, read_image
from clipself_d2.regions import GridRegions, crop_and_resize

GRAY_TOLERANCE = 0.5  # most that the crops may differ by in the mean, in gray levels

_SLOTS = 20  # crops that every sample is padded to in the released code
_MEAN = torch.tensor([0.4815, 0.4578, 0.4082])[:, None, None]
_STD = torch.tensor([0.2686, 0.2613, 0.2758])[:, None, None]


class ReferenceMapper:
    """The released recipe's samples.

    Args:
        student_size: side of the square that the image is letterboxed into, in pixels.
        teacher_size: side of a crop.
    """

    def __init__(self, student_size: int, teacher_size: int) -> None:
        self.student_size = student_size
        self.teacher_size = teacher_size
        self.regions = GridRegions(max_regions=_SLOTS)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` 3 x S x S, `boxes` 20 x 5 (corners as parts of S, valid), `crops` 20 x 3 x c x c."""
        image = read_image(record["file_name"])
        regions, views, _ = self.regions(record["image_id"], image.shape[1], image.shape[2], rng)
        boxes = torch.zeros(_SLOTS, 5)
        boxes[: len(regions), :4] = regions / max(image.shape[1:])
        boxes[: len(regions), 4] = 1
        crops = torch.zeros(_SLOTS, 3, self.teacher_size, self.teacher_size)
        for slot, view in zip(crops, views.tolist(), strict=False):
            slot.copy_((reference.crop(image, view, self.teacher_size) / 255 - _MEAN) / _STD)
        pixels = (reference.letterbox(image, self.student_size) / 255 - _MEAN) / _STD
        return {"image": pixels, "boxes": boxes, "crops": crops}


def agree(record: Mapping[str, Any], student_size: int, teacher_size: int) -> dict[str, float]:
    """Compare boxes and crops of one image, ours decoded whole.

    Raises:
        RunError: beyond the tolerances.
    """
    ours = DistillationMapper(GridRegions())(record, np.random.default_rng(0))
    theirs = ReferenceMapper(student_size, teacher_size)(record, np.random.default_rng(0))
    valid = theirs["boxes"][:, 4] > 0
    boxes = ours["regions"].tensor / max(ours["height"], ours["width"])
    crops = crop_and_resize(ours["image"], ours["crop_boxes"].tensor, teacher_size)
    expected = (theirs["crops"][valid] * _STD + _MEAN) * 255
    return harness.check_agreement(
        box_difference=(float((boxes - theirs["boxes"][valid, :4]).abs().max()), 0, 1e-5),
        gray_levels=(float((crops - expected).abs().mean()), 0, GRAY_TOLERANCE),
    )


def take(batches: Iterator[Any], count: int) -> None:
    """Load some batches."""
    for _ in range(count):
        next(batches)


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = harness.argument_parser(__doc__)
    add = parser.add_argument
    add("--images", metavar="DIR", help="a folder of images (some of 640 x 480 are made)")
    add("--workers", type=harness.at_least(0), nargs="+", default=[0, 1, 2, 4], metavar="N", help="%(default)s")
    add("--student-size", type=harness.at_least(1), default=1024, metavar="PIXELS", help="%(default)s")
    add("--teacher-size", type=harness.at_least(1), default=224, metavar="PIXELS", help="%(default)s")
    add("--reduce", action="store_true", help="ours decodes large JPEGs at the scale that these sizes need")
    add("--batches", type=harness.at_least(1), default=12, metavar="N", help="timed in each round (%(default)s)")
    parser.set_defaults(batch=2, rounds=3)
    args = harness.parse(parser, argv)
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
