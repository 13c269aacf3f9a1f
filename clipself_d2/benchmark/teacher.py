"""The teacher's embeddings of crops, computed and out of the cache, against the released recipe's arithmetic."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.benchmark import plain
from clipself_d2.benchmark.arguments import IMAGE, add_common, autocast, check_at_least
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.clip import build_image_tower
from clipself_d2.data.distillation import DistillationMapper, image_key
from clipself_d2.distillation import CLIPSelf, TeacherCache
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import RunError
from clipself_d2.regions import GridRegions, crop_embeddings

COSINE_TOLERANCE = 0.01
"""Most that the cosine of a crop's embeddings by two paths may fall short of 1."""
CENTRED_TOLERANCE = 0.1
"""The same after the mean over all crops is taken off, which is most of what a tower with random weights gives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser, batch=2)
    help_of_crops = "of each image; the recipe's mean is %(default)s"
    parser.add_argument("--crops", type=int, default=13, metavar="R", help=help_of_crops)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights, on photographs of noise and cells of grids.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a batch of decoded photographs: `ours` (cut on the device, through the tower together), `cached` (the
        same, all on disk), `reference` (see `plain.embed_crops`); `ratio` and `ratio_cached`, the reference's over
        them; `peak_fraction`, our operations a second over `peak_flops`; `peak_memory_bytes` and `flops` of all;
        `parts` of ours; `agreement`; `settings`.

    Raises:
        InputError: for an unknown model, or a number out of its range.
        RunError: the paths do not agree.
    """
    check_at_least(args, batch=1, crops=2, rounds=1)
    torch.manual_seed(0)
    tower = build_image_tower(args.model, "random")
    model = CLIPSelf(tower, tower.native_size).to(args.device)
    images, boxes, samples = draw(args.batch, args.crops)
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache(folder)
        cache.attach(model.teacher, model.teacher_size)
        with autocast(args):
            cache.open(samples, DistillationMapper(GridRegions()))

        def ours(cache: TeacherCache | None = None) -> Tensor:
            model.teacher_cache = cache
            with autocast(args):
                return model.embed_crops(images, boxes, samples)

        ours(cache)
        calls = {
            "ours": ours,
            "cached": lambda: ours(cache),
            "reference": lambda: plain.embed_crops(model.teacher, images, boxes),
        }
        agreement = agree({name: call() for name, call in calls.items()})
        seconds = medians(calls, args.device, args.rounds)
        flops = {name: count_flops(call) for name, call in calls.items()}
        memory = {name: peak_memory(call, args.device) for name, call in calls.items()}
    methods = {"crops": (crop_embeddings, "crop_and_resize"), "tower": (model.teacher, "image_embeddings")}
    attainable = peak_flops(args.device, PRECISIONS[args.precision])
    said = ("model", "batch", "crops", "precision", "rounds")
    return {
        **seconds,
        "ratio": seconds["reference"] / seconds["ours"],
        "ratio_cached": seconds["reference"] / seconds["cached"],
        "peak_fraction": flops["ours"] / seconds["ours"] / attainable,
        "peak_flops": attainable,
        "peak_memory_bytes": memory,
        "flops": flops,
        "parts": Parts(methods, args.device)(ours, args.rounds),
        "agreement": agreement,
        "settings": {"size": model.teacher_size, "image": list(IMAGE), **{name: getattr(args, name) for name in said}},
    }


def draw(count: int, crops: int) -> tuple[list[Tensor], list[Tensor], list[dict[str, Any]]]:
    """Draw images of smooth noise, uint8 on the CPU, `crops` boxes of each, and the samples that a cache asks for."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 256, (count, 3, IMAGE[0] // 8, IMAGE[1] // 8)))
    images = F.interpolate(coarse, IMAGE, mode="bilinear").to(torch.uint8)
    regions, boxes, samples = GridRegions(), [], []
    for i, image in enumerate(images):
        draws = [regions(i, *IMAGE, rng) for _ in range(crops)]
        _, drawn, crop_ids = (torch.cat(parts)[:crops] for parts in zip(*draws, strict=True))
        key = image_key(image.numpy().data, *IMAGE)
        boxes.append(drawn)
        samples.append({"file_name": str(i), "image_id": i, "image_key": key, "crop_ids": crop_ids})
    return list(images), boxes, samples


def agree(embeddings: dict[str, Tensor]) -> dict[str, float]:
    """Compares what every path gives with what the `reference` gives, R x C unit vectors.

    Returns:
        `lowest_cosine` of a crop's embeddings, and `lowest_centred_cosine`.

    Raises:
        RunError: beyond the tolerances.
    """
    expected = embeddings["reference"]
    mean = expected.mean(dim=0)
    others = [rows for name, rows in embeddings.items() if name != "reference"]
    cosine = min(float(F.cosine_similarity(rows, expected).min()) for rows in others)
    centred = min(float(F.cosine_similarity(rows - mean, expected - mean).min()) for rows in others)
    if not cosine >= 1 - COSINE_TOLERANCE or not centred >= 1 - CENTRED_TOLERANCE:
        raise RunError(
            f"ours and the reference do not agree: cosine of embeddings {cosine:.4f} (at least {1 - COSINE_TOLERANCE}),"
            f" {centred:.4f} without their mean (at least {1 - CENTRED_TOLERANCE})"
        )
    return {"lowest_cosine": cosine, "lowest_centred_cosine": centred}
