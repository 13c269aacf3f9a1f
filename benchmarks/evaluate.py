"""Time region classification (boxes, thing masks, stuff masks) against the released recipe's arithmetic.

  python benchmarks/evaluate.py --size 640 --batch 1

With random weights, on images of noise with as many segments as COCO's. Ours is one forward without padding, RoIAlign,
mask pooling and one product with the texts. The reference works image by image in fp32: attention's matrix, the padded
square twice through the tower (for boxes and for masks), masks pooled one by one, hits counted region by region. Before
the timing, embeddings and accuracies must agree.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import reference
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from clipself_d2.clip import ImageTower, build_image_tower
from clipself_d2.command_line import exit_codes
from clipself_d2.evaluation import RegionClassificationEvaluator
from clipself_d2.regions import RegionEmbedder

LEAST_COSINE = 0.98  # of a region's embeddings by the two paths
ACCURACY_TOLERANCE = 0.01  # percent, of the same embeddings

_MEAN_SEGMENTS, _MOST_SEGMENTS = 11, 30  # per image of COCO panoptic
_DATASET = "benchmark_regions"


def draw_samples(count: int, classes: int) -> list[dict[str, Any]]:
    """Evaluation samples: images of noise, each divided into the segments of random points; half are things."""
    rng = np.random.default_rng(0)
    rows, columns = (torch.arange(side) for side in harness.IMAGE_SIZE)
    samples = []
    for _ in range(count):
        number = min(_MOST_SEGMENTS, 1 + int(rng.poisson(_MEAN_SEGMENTS - 1)))
        y, x = (torch.from_numpy(rng.uniform(0, side, number)).float() for side in harness.IMAGE_SIZE)
        owner = ((rows[:, None] - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2).argmin(dim=0)
        masks = owner == owner.unique()[:, None, None]
        labels = torch.from_numpy(rng.integers(0, classes, len(masks)))
        samples.append(
            {
                "image": harness.random_image(),
                "boxes": Boxes(masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])),
                "masks": masks,
                "classes": labels,
                "isthing": labels < classes // 2,
            }
        )
    return samples


class Reference:
    """The released recipe's arithmetic.

    Args:
        tower: a CLIP image tower.
        size: side of the square, in pixels.
        text: K x C unit vectors of the classes; the first half are things.
    """

    def __init__(self, tower: ImageTower, size: int, text: Tensor) -> None:
        self.tower = tower
        self.size = size
        self.text = text
        self.hits: dict[str, dict[int, list[tuple[int, int]]]] = {}

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The embeddings of boxes and masks, whose hits are counted anew."""
        self.hits = defaultdict(lambda: defaultdict(list))
        outputs = [self._embed(sample) for sample in samples]
        for sample, output in zip(samples, outputs, strict=True):
            for field, embeddings in output.items():
                self._count(field, embeddings, sample["classes"].tolist())
        return outputs

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Accuracies averaged over classes: what `RegionClassificationEvaluator.evaluate` gives."""
        means = {task: np.mean([np.mean(h, axis=0) for h in hits.values()], axis=0) for task, hits in self.hits.items()}
        return {task: {"top1": 100 * top1, "top5": 100 * top5} for task, (top1, top5) in means.items()}

    def _embed(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        image = sample["image"]
        dense = reference.dense_map(self.tower, image, self.size)
        boxes = sample["boxes"].tensor.to(dense.device) * (self.size / max(image.shape[1:]) / self.tower.stride)
        by_box = roi_align(dense, [boxes], (1, 1), 1.0, -1, True)[..., 0, 0]
        dense = reference.dense_map(self.tower, image, self.size)
        by_mask, _ = reference.pool_masks(dense, sample["masks"].to(dense.device), image.shape[1:], "bicubic")
        return {"boxes": F.normalize(by_box, dim=-1), "masks": by_mask}

    def _count(self, field: str, embeddings: Tensor, labels: list[int]) -> None:
        best = (embeddings @ self.text.T).topk(5).indices.tolist()
        for label, classes in zip(labels, best, strict=True):
            is_thing = label < len(self.text) // 2
            task = field if field == "boxes" else "thing_masks" if is_thing else "stuff_masks"
            if is_thing or field == "masks":
                self.hits[task][label].append((int(label == classes[0]), int(label in classes)))


def agree(
    embedder: RegionEmbedder, evaluator: Any, plain: Reference, samples: Sequence[dict[str, Any]], precision: Any
) -> dict[str, float]:
    """Compare embeddings, ours read with the reference's padding, and the accuracies of the reference's embeddings.

    Raises:
        RunError: beyond the tolerances.
    """
    skip_padding, embedder.skip_padding = embedder.skip_padding, False
    with torch.inference_mode(), precision:
        found = embedder(samples)
    embedder.skip_padding = skip_padding
    expected = plain(samples)
    cosines = [(a[field] * b[field]).sum(dim=-1) for a, b in zip(found, expected, strict=True) for field in b]
    evaluator.reset()
    evaluator.process(samples, expected)
    ours, theirs = evaluator.evaluate(), plain.accuracies()
    difference = max(abs(ours[task][k] - theirs[task][k]) for task in theirs for k in theirs[task])
    return harness.check_agreement(
        lowest_cosine=(float(torch.cat(cosines).min()), LEAST_COSINE, 1.001),
        accuracy_difference=(difference, 0, ACCURACY_TOLERANCE),
    )


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = harness.argument_parser(__doc__)
    harness.add_tower(parser)
    add = parser.add_argument
    add("--size", type=int, default=640, metavar="PIXELS", help="side of the square input (%(default)s)")
    add("--classes", type=harness.at_least(6), default=133, metavar="K", help="things and stuff (%(default)s)")
    args = harness.parse(parser, argv)
    tower = build_image_tower(args.model, "random").to(args.device).eval()
    tower.check_size(args.size, "--size")
    text = F.normalize(torch.randn(args.classes, tower.embed_dim), dim=-1).to(args.device)
    names, isthing = [f"class {i}" for i in range(args.classes)], [i < args.classes // 2 for i in range(args.classes)]
    MetadataCatalog.pop(_DATASET, None)
    MetadataCatalog.get(_DATASET).set(region_classes=names, region_isthing=isthing)
    embedder = RegionEmbedder(tower, args.size, mask_resize="bicubic")
    evaluator = RegionClassificationEvaluator(_DATASET, text)
    plain, precision, samples = (
        Reference(tower, args.size, text),
        harness.autocast(args),
        draw_samples(args.batch, args.classes),
    )
    agreement = agree(embedder, evaluator, plain, samples, precision)

    def ours() -> None:
        with torch.inference_mode():
            with precision:
                outputs = embedder(samples)
            evaluator.process(samples, outputs)

    calls = {"reference": lambda: plain(samples), "ours": ours}
    numbers = harness.measure("evaluate", calls, args)
    ratio = harness.ratios(numbers["seconds"], "reference")
    harness.report("evaluate", {**numbers, "ratio": ratio, "agreement": agreement}, args)


if __name__ == "__main__":
    sys.exit(main())
