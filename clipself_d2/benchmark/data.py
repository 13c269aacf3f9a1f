"""Loading a distillation's batches against the released recipe's loading, for several numbers of workers."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes
from PIL import Image
from rich.table import Table
from torch import Tensor

from clipself_d2.benchmark import plain
from clipself_d2.benchmark.arguments import check_at_least
from clipself_d2.benchmark.distill import write_photographs
from clipself_d2.data import DistillationMapper, build_train_loader, load_image_list
from clipself_d2.errors import InputError, RunError
from clipself_d2.regions import GridRegions, crop_and_resize

CROP_TOLERANCE = 0.5
"""Most that the two paths' crops may differ by in the mean, in grey levels."""

_SLOTS = 20  # crops that every sample is padded to in the released code
_PHOTOGRAPHS = 16  # written where no folder is given
_WARMUP = 2  # batches before the clock starts: workers are at work by then
_MEAN = torch.tensor([0.4815, 0.4578, 0.4082])[:, None, None]
_STD = torch.tensor([0.2686, 0.2613, 0.2758])[:, None, None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add = parser.add_argument
    add("--images", metavar="DIR", help="a folder of photographs (some of 640 x 480 are made)")
    add("--workers", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N", help="(0 1 2 4)")
    add("--batch", type=int, default=2, metavar="N", help="images at once (%(default)s)")
    add("--student-size", type=int, default=1024, metavar="PIXELS", help="%(default)s")
    add("--teacher-size", type=int, default=224, metavar="PIXELS", help="%(default)s")
    add("--reduce", action="store_true", help="ours decodes large JPEGs at the scale that these sizes need")
    add("--step-seconds", type=float, default=0.5, metavar="T", help="of a training step without data (%(default)s)")
    add("--batches", type=int, default=12, metavar="N", help="timed in each round (%(default)s)")
    add("--rounds", type=int, default=3, metavar="N", help="medians are over so many (%(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the loaders alone. Ours leaves resizing and cutting to the model, on its device.

    Args:
        args: what `add_arguments` declares; the device plays no part.

    Returns:
        Seconds of a batch without workers: `ours`, `reference` (`PlainMapper`); `ratio`, the reference's over ours;
        `images_per_second`, and `waiting`, the part of a step of `--step-seconds` and its wait that is the wait, both
        by path and number of workers; `bytes_per_sample` that travel to the device; `agreement`; `settings`.

    Raises:
        InputError: for a number out of its range, or a folder without images.
        RunError: the two paths do not agree.
    """
    check_at_least(args, batch=1, batches=1, rounds=1, student_size=1, teacher_size=1)
    if min(args.workers) < 0 or args.step_seconds <= 0:
        raise InputError("--workers and --step-seconds: no number of workers below 0, no time of 0 or less")
    workers = sorted({0, *args.workers})
    sizes = (args.student_size, args.teacher_size)
    mappers: dict[str, Any] = {
        "ours": DistillationMapper(GridRegions(), min_decode_size=sizes if args.reduce else None),
        "reference": PlainMapper(*sizes),
    }
    with tempfile.TemporaryDirectory() as folder:
        if not args.images:
            write_photographs(Path(folder), _PHOTOGRAPHS)
        records = load_image_list(None, args.images or folder)
        agreement = agree(records[0], sizes)
        size = {name: sample_bytes(mapper(records[0], np.random.default_rng(0))) for name, mapper in mappers.items()}
        seconds: dict[str, dict[int, float]] = {name: {} for name in mappers}
        for number in workers:
            rounds: dict[str, list[float]] = {name: [] for name in mappers}
            for _ in range(args.rounds):
                for name, mapper in mappers.items():
                    loader = build_train_loader(records, mapper, args.batch, 0, number)
                    rounds[name].append(batch_seconds(iter(loader), args.batches))
            for name, values in rounds.items():
                seconds[name][number] = median(values)
    said = ("images", "batch", "student_size", "teacher_size", "reduce", "step_seconds", "batches", "rounds")
    return {
        **{name: by_workers[0] for name, by_workers in seconds.items()},
        "ratio": seconds["reference"][0] / seconds["ours"][0],
        "images_per_second": {
            name: {number: args.batch / value for number, value in by_workers.items()}
            for name, by_workers in seconds.items()
        },
        "waiting": {
            name: {number: waiting(value, args.step_seconds, number) for number, value in by_workers.items()}
            for name, by_workers in seconds.items()
        },
        "bytes_per_sample": size,
        "agreement": agreement,
        "settings": {"workers": workers, **{name: getattr(args, name) for name in said}},
    }


class PlainMapper:
    """The released recipe's samples: everything cut and resized by Pillow, floats, crops padded to 20.

    Args:
        student_size: side of the square that the photograph is letterboxed into, in pixels.
        teacher_size: side of a crop.
    """

    def __init__(self, student_size: int, teacher_size: int) -> None:
        self.student_size = student_size
        self.teacher_size = teacher_size
        self.regions = GridRegions(max_regions=_SLOTS)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Tensor]:
        """``image`` 3 x S x S, ``boxes`` 20 x 5 (corners as parts of S, valid), ``crops`` 20 x 3 x c x c."""
        with Image.open(record["file_name"]) as file:
            photograph = file.convert("RGB")
        drawn, views, _ = self.regions(record["image_id"], photograph.height, photograph.width, rng)
        boxes = torch.zeros(_SLOTS, 5)
        boxes[: len(drawn), :4] = drawn / max(photograph.size)
        boxes[: len(drawn), 4] = 1
        crops = torch.zeros(_SLOTS, 3, self.teacher_size, self.teacher_size)
        for slot, view in zip(crops, views.tolist(), strict=False):
            slot.copy_((plain.crop(photograph, view, self.teacher_size) / 255 - _MEAN) / _STD)
        image = (plain.letterbox(photograph, self.student_size) / 255 - _MEAN) / _STD
        return {"image": image, "boxes": boxes, "crops": crops}


def batch_seconds(batches: Iterator[Any], count: int) -> float:
    """Seconds of a batch, the mean over so many after the warm-up."""
    for _ in range(_WARMUP):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - start) / count


def waiting(batch: float, step: float, workers: int) -> float:
    """The part of the time that a training waits for its batches.

    Args:
        batch: seconds that the loader takes for a batch when nothing else is done.
        step: seconds of a step.
        workers: which load while the step runs; without them it waits for all of the loading.
    """
    wait = max(0.0, batch - step) if workers else batch
    return wait / (step + wait)


def sample_bytes(sample: Mapping[str, Any]) -> int:
    """Bytes of the tensors and boxes of a sample."""
    tensors = (value.tensor if isinstance(value, Boxes) else value for value in sample.values())
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def agree(record: Mapping[str, Any], sizes: tuple[int, int]) -> dict[str, float]:
    """Cuts the crops of one photograph by both paths, ours decoded whole.

    Returns:
        `grey_levels`, what the crops differ by in the mean.

    Raises:
        RunError: beyond the tolerance, or where the boxes differ.
    """
    ours = DistillationMapper(GridRegions())(record, np.random.default_rng(0))
    theirs = PlainMapper(*sizes)(record, np.random.default_rng(0))
    crops = crop_and_resize(ours["image"], ours["crop_boxes"].tensor, sizes[1])
    valid = theirs["boxes"][:, 4] > 0
    expected = (theirs["crops"][valid] * _STD + _MEAN) * 255
    boxes = ours["regions"].tensor / max(ours["height"], ours["width"])
    same = len(crops) == len(expected) and torch.allclose(boxes, theirs["boxes"][valid, :4], atol=1e-5)
    difference = float((crops - expected).abs().mean()) if same else float("inf")
    if not difference <= CROP_TOLERANCE:
        raise RunError(
            f"ours and the reference do not agree: crops differ by {difference:.2f} grey levels "
            f"(at most {CROP_TOLERANCE})"
        )
    return {"grey_levels": difference}


def table(title: str, numbers: dict[str, Any]) -> Table:
    """Images a second and waiting by the number of workers."""
    size = {name: value / 2**20 for name, value in numbers["bytes_per_sample"].items()}
    step = numbers["settings"]["step_seconds"]
    shown = Table(title=title, caption=f"MiB a sample: {size['reference']:.1f} (reference), {size['ours']:.1f} (ours)")
    shown.add_column("workers", justify="right")
    for heading in ("images/s", f"waiting at {step:g} s a step"):
        for path in ("reference", "ours"):
            shown.add_column(f"{path}: {heading}", justify="right")
    for number in numbers["settings"]["workers"]:
        speed, wait = (
            [numbers[key][path][number] for path in ("reference", "ours")] for key in ("images_per_second", "waiting")
        )
        shown.add_row(str(number), *(f"{value:.1f}" for value in speed), *(f"{100 * value:.0f} %" for value in wait))
    return shown
