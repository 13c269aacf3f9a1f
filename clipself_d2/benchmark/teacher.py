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
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.clip import build_image_tower
from clipself_d2.data.mappers import image_key
from clipself_d2.distillation import CLIPSelf, TeacherCache, clipself
from clipself_d2.errors import InputError, RunError
from clipself_d2.regions import GridRegions
from clipself_d2.training.trainer import PRECISIONS

COSINE_TOLERANCE = 0.01
"""Most that the cosine of a crop's embeddings by two paths may fall short of 1."""
CENTRED_TOLERANCE = 0.1
"""The same after the mean over all crops is taken off, which is most of what a tower with random weights gives."""

_IMAGE = (480, 640)  # height and width of most of COCO's photographs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add = parser.add_argument
    add("--model", default="EVA02-B-16", help="a CLIP of open_clip, or the path of its config (%(default)s)")
    add("--batch", type=int, default=2, metavar="N", help="images at once (%(default)s)")
    add("--crops", type=int, default=13, metavar="R", help="of each image; the recipe's mean is %(default)s")
    add("--precision", default="bf16", choices=sorted(PRECISIONS), help="of ours; the reference is fp32 (%(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="medians are over so many (%(default)s)")


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
    for name, least in (("batch", 1), ("crops", 2), ("rounds", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least {least}")
    torch.manual_seed(0)
    tower = build_image_tower(args.model, "random")
    model = CLIPSelf(tower, tower.native_size).to(args.device)
    images, boxes = draw(args.batch, args.crops)
    keys = [image_key(image.numpy().data, *_IMAGE) for image in images]
    dtype = PRECISIONS[args.precision]
    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache(folder)
        cache.attach(model.teacher, model.teacher_size)

        def ours(cache: TeacherCache | None = None) -> Tensor:
            model.teacher_cache = cache
            with torch.autocast(args.device, dtype=dtype, enabled=dtype != torch.float32):
                return model.embed_crops(images, boxes, keys)

        ours(cache)
        cache.flush()
        calls = {
            "ours": ours,
            "cached": lambda: ours(cache),
            "reference": lambda: plain.embed_crops(model.teacher, images, boxes),
        }
        agreement = agree({name: call() for name, call in calls.items()})
        seconds = medians(calls, args.device, args.rounds)
        flops = {name: count_flops(call) for name, call in calls.items()}
        memory = {name: peak_memory(call, args.device) for name, call in calls.items()}
    methods = {"crops": (clipself, "crop_and_resize"), "tower": (model.teacher, "image_embeddings")}
    attainable = peak_flops(args.device, dtype)
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
        "settings": {"size": model.teacher_size, "image": list(_IMAGE), **{name: getattr(args, name) for name in said}},
    }


def draw(count: int, crops: int) -> tuple[list[Tensor], list[Tensor]]:
    """Photographs of smooth noise, uint8 on the CPU, and so many crops of each as training draws them."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 256, (count, 3, _IMAGE[0] // 8, _IMAGE[1] // 8)))
    images = F.interpolate(coarse, _IMAGE, mode="bilinear").to(torch.uint8)
    regions = GridRegions()
    boxes = [torch.cat([regions(i, *_IMAGE, rng)[1] for _ in range(crops)])[:crops] for i in range(count)]
    return list(images), boxes


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
