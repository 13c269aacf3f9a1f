"""Time the teacher's embeddings of crops, computed and out of the cache, against crops that are embedded one by one.

  python benchmarks/teacher.py --batch 2

With random weights, on images of smooth noise and crops as the recipe draws them. Before the timing, all must agree.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import arguments

from clipself_d2.command_line import exit_codes

if TYPE_CHECKING:
    from torch import Tensor

    from clipself_d2.distillation import TeacherCache

LEAST_COSINE = 0.99  # of a crop's embeddings by two paths
LEAST_CENTERED_COSINE = 0.9  # without the mean over all crops, which is most of what random weights give


def agree(embeddings: dict[str, Tensor]) -> dict[str, float]:
    """Compare every path's embeddings (R x C unit vectors) with those of `reference`.

    Raises:
        RunError: beyond the tolerances.
    """
    import harness
    import torch
    import torch.nn.functional as F

    expected = embeddings["reference"]
    mean = expected.mean(dim=0)
    found = torch.stack([embeddings[name] for name in embeddings if name != "reference"])
    return harness.check_agreement(
        lowest_cosine=(float(F.cosine_similarity(found, expected, dim=-1).min()), LEAST_COSINE, 1.001),
        lowest_centered_cosine=(
            float(F.cosine_similarity(found - mean, expected - mean, dim=-1).min()), LEAST_CENTERED_COSINE, 1.001,
        ),
    )  # fmt: skip


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_tower(parser)
    args = parser.parse_args(argv)

    import harness
    import numpy as np
    import reference

    from clipself_d2.clip import build_image_tower
    from clipself_d2.data import DistillationMapper
    from clipself_d2.distillation import CLIPSelf, TeacherCache
    from clipself_d2.regions import GridRegions

    harness.prepare(args)
    tower = build_image_tower(args.model, None)
    model = CLIPSelf(tower, tower.native_size).to(args.device)
    mapper, rng = DistillationMapper(GridRegions()), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        records = harness.write_images(Path(folder), args.batch)
        samples = [mapper(record, rng) for record in records]
        images, boxes = [x["image"] for x in samples], [x["crop_boxes"].tensor for x in samples]
        cache = TeacherCache(f"{folder}/cache")
        cache.attach(model.teacher, model.teacher_size)
        with harness.autocast(args):
            cache.open(records, mapper)

        if args.compile:
            model.teacher.compile()

        def ours(cache: TeacherCache | None = None) -> Tensor:
            model.teacher_cache = cache
            with harness.autocast(args):
                return model.embed_crops(images, boxes, samples)

        ours(cache)  # fills it
        calls = {
            "reference": lambda: reference.embed_crops(model.teacher, images, boxes),
            "ours": ours,
            "cached": lambda: ours(cache),
        }
        agreement = agree({name: call() for name, call in calls.items()})
        numbers = harness.measure("teacher", calls, args)
    numbers["crops"] = sum(len(each) for each in boxes)
    ratio = harness.ratios(numbers["seconds"], "reference")
    harness.report("teacher", {**numbers, "ratio": ratio, "agreement": agreement}, args)


if __name__ == "__main__":
    sys.exit(main())
