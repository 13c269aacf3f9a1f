"""Region classification (boxes, thing masks, stuff masks) against the released recipe's arithmetic."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes
from PIL import Image
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from clipself_d2.benchmark import plain
from clipself_d2.benchmark.arguments import IMAGE, add_common, autocast, check_at_least
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.clip import ImageTower, build_image_tower
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError, RunError
from clipself_d2.evaluation import RegionClassificationEvaluator
from clipself_d2.regions import RegionEmbedder, embedder, pooling

COSINE_TOLERANCE = 0.02
"""Most that the cosine of a region's embeddings by the two paths may fall short of 1."""
ACCURACY_TOLERANCE = 0.01
"""Most that their accuracies may differ by on the same embeddings, in percent."""

_SEGMENTS = (10, 30)  # of an image of COCO panoptic: the mean less one, and the most
_SLOTS = 100  # regions that every image is padded to in the released code
_DATASET = "benchmark_regions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser)
    add = parser.add_argument
    add("--size", type=int, default=640, metavar="PIXELS", help="side of the square input (%(default)s)")
    add("--classes", type=int, default=133, metavar="K", help="things and stuff (%(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights, on photographs of noise with segments as many as COCO's.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a batch, from photographs to counted hits: `ours` (one forward without padding, RoIAlign and mask
        pooling, one text product), `reference` (see `Reference`); `ratio`, the reference's over ours; `peak_fraction`,
        our operations a second over `peak_flops`; `peak_memory_bytes` and `flops` of both; `parts` of ours;
        `agreement`; `settings`.

    Raises:
        InputError: for an unknown model, or a number out of its range.
        RunError: the two paths do not agree.
    """
    check_at_least(args, batch=1, rounds=1)
    if args.classes < 6:
        raise InputError(f"--classes {args.classes}: must be at least 6, for there is a top 5")
    torch.manual_seed(0)
    tower = build_image_tower(args.model, "random").to(args.device).eval()
    tower.check_size(args.size, "--size")
    text = F.normalize(torch.randn(args.classes, tower.embed_dim), dim=-1).to(args.device)
    inputs = draw_samples(args.batch, args.classes)
    ours = Ours(tower, args, text)
    reference = Reference(tower, args.size, text)
    agreement = agree(ours, reference, inputs)
    calls = {"ours": lambda: ours(inputs), "reference": lambda: reference(inputs)}
    seconds = medians(calls, args.device, args.rounds)
    flops = {name: count_flops(call) for name, call in calls.items()}
    attainable = peak_flops(args.device, PRECISIONS[args.precision])
    said = ("model", "size", "batch", "classes", "precision", "rounds")
    regions = sum(len(x["classes"]) for x in inputs)
    return {
        **seconds,
        "ratio": seconds["reference"] / seconds["ours"],
        "peak_fraction": flops["ours"] / seconds["ours"] / attainable,
        "peak_memory_bytes": {name: peak_memory(call, args.device) for name, call in calls.items()},
        "flops": flops,
        "parts": Parts(ours.parts(), args.device)(calls["ours"], args.rounds),
        "agreement": agreement,
        "settings": {"image": list(IMAGE), "regions": regions, **{name: getattr(args, name) for name in said}},
    }


def draw_samples(count: int, classes: int, seed: int = 0) -> list[dict[str, Any]]:
    """Evaluation samples: photographs of noise, each divided into the segments of random points; half are things."""
    rng = np.random.default_rng(seed)
    rows, columns = (torch.arange(side) for side in IMAGE)
    samples = []
    for _ in range(count):
        number = min(_SEGMENTS[1], 1 + int(rng.poisson(_SEGMENTS[0])))
        y, x = (torch.from_numpy(rng.uniform(0, side, number)).float()[:, None, None] for side in IMAGE)
        owner = ((rows[:, None] - y) ** 2 + (columns - x) ** 2).argmin(dim=0)
        masks = owner == torch.arange(number)[:, None, None]
        masks = masks[masks.flatten(1).any(dim=1)]
        labels = torch.from_numpy(rng.integers(0, classes, len(masks)))
        samples.append(
            {
                "image": torch.from_numpy(rng.integers(0, 256, (3, *IMAGE), dtype=np.uint8)),
                "boxes": Boxes(masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])),
                "masks": masks,
                "classes": labels,
                "isthing": labels < classes // 2,
            }
        )
    return samples


class Ours:
    """`RegionEmbedder` and `RegionClassificationEvaluator`, as a run evaluates.

    Args:
        tower: a CLIP image tower.
        args: of the command line.
        text: K x C unit vectors of the classes; the first half are things.
    """

    def __init__(self, tower: ImageTower, args: argparse.Namespace, text: Tensor) -> None:
        self.embedder = RegionEmbedder(tower, args.size, mask_resize="bicubic")
        names = [f"class {i}" for i in range(len(text))]
        MetadataCatalog.pop(_DATASET, None)
        MetadataCatalog.get(_DATASET).set(
            region_classes=names, region_isthing=[i < len(text) // 2 for i in range(len(text))]
        )
        self.evaluator = RegionClassificationEvaluator(_DATASET, text)
        self.precision = autocast(args)

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The embeddings, whose hits are counted too."""
        with torch.inference_mode():
            with self.precision:
                outputs = self.embedder(inputs)
            self.evaluator.process(inputs, outputs)
        return outputs

    def parts(self) -> dict[str, tuple[Any, str]]:
        """Functions whose time is told."""
        return {
            "tower": (self.embedder.tower, "features"),
            "letterbox": (embedder, "letterbox_images"),
            "masks to the grid": (pooling, "letterbox_masks"),
            "RoIAlign": (pooling, "pool_boxes"),
            "mask pooling": (pooling, "pool_masks"),
            "text product, hits": (self.evaluator, "process"),
        }


class Reference:
    """The released recipe's arithmetic, plainly: image by image in fp32 with attention's matrix, the padded square
    twice through the tower (for boxes and for masks), 100 slots of masks an image, the map repeated for every mask,
    hits counted region by region. The crops that the released code also embeds, and those it never uses, are left out.

    Args:
        tower: a CLIP image tower.
        size: side of the square, in pixels.
        text: K x C unit vectors of the classes; the first half are things.
    """

    def __init__(self, tower: ImageTower, size: int, text: Tensor) -> None:
        self.tower = tower
        self.size = size
        self.text = text
        self.hits: dict[tuple[str, bool], dict[int, list[tuple[int, int]]]] = {}

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The embeddings, whose hits are counted anew."""
        self.hits = defaultdict(lambda: defaultdict(list))
        outputs = []
        with torch.no_grad(), plain.naive_attention():
            for sample in inputs:
                output = self._embed(sample)
                for field, embeddings in output.items():
                    self._count(field, embeddings, sample["classes"])
                outputs.append(output)
        return outputs

    def results(self) -> dict[str, dict[str, float]]:
        """What `RegionClassificationEvaluator.evaluate` gives."""
        tasks = {"boxes": ("boxes", True), "thing_masks": ("masks", True), "stuff_masks": ("masks", False)}
        return {
            task: {
                f"top{k}": 100 * float(np.mean([np.mean([hit[i] for hit in hits]) for hits in self.hits[key].values()]))
                for i, k in enumerate((1, 5))
            }
            for task, key in tasks.items()
            if key in self.hits
        }

    def _embed(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        height, width = sample["image"].shape[1:]
        grid, scale = self.size // self.tower.stride, self.size / max(height, width)
        photograph = Image.fromarray(sample["image"].permute(1, 2, 0).numpy())
        pixels = self.tower.normalize(plain.letterbox(photograph, self.size)[None].to(self.text.device))

        slots = torch.zeros(_SLOTS, grid, grid)
        content = (round(height * grid / max(height, width)), round(width * grid / max(height, width)))
        for slot, mask in zip(slots, sample["masks"], strict=False):
            resized = F.interpolate(mask[None, None].float(), content, mode="bicubic", align_corners=False)
            slot[: content[0], : content[1]] = resized[0, 0] > 0
        slots = slots.to(self.text.device)[: len(sample["masks"])]

        dense = self.tower.dense_embeddings(pixels)
        boxes = sample["boxes"].tensor.to(dense.device) * (scale / self.tower.stride)
        by_box = roi_align(dense, [boxes], (1, 1), 1.0, -1, True)[..., 0, 0]
        dense = self.tower.dense_embeddings(pixels)
        repeated = dense.repeat(len(slots), 1, 1, 1) * slots[:, None]
        by_mask = repeated.sum(dim=(2, 3)) / (slots.sum(dim=(1, 2))[:, None] + 1e-12)
        return {"boxes": F.normalize(by_box, dim=-1), "masks": F.normalize(by_mask, dim=-1)}

    def _count(self, field: str, embeddings: Tensor, labels: Tensor) -> None:
        best = (embeddings @ self.text.T).topk(5).indices.tolist()
        for label, classes in zip(labels.tolist(), best, strict=True):
            hits = self.hits[field, label < len(self.text) // 2][label]
            hits.append((int(label == classes[0]), int(label in classes)))


def agree(ours: Ours, reference: Reference, inputs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Compares embeddings, ours read with the reference's padding, and the accuracies of the reference's embeddings.

    Returns:
        `lowest_cosine` of the embeddings and `accuracy_difference` in percent, the largest.

    Raises:
        RunError: beyond the tolerances.
    """
    fit, ours.embedder.skip_padding = ours.embedder.skip_padding, False
    found, expected = ours(list(inputs)), reference(list(inputs))
    ours.embedder.skip_padding = fit
    cosine = min(float((a[f] * b[f]).sum(dim=-1).min()) for a, b in zip(found, expected, strict=True) for f in b)
    ours.evaluator.reset()
    ours.evaluator.process(inputs, expected)
    theirs, results = reference.results(), ours.evaluator.evaluate()
    difference = max(abs(results[task][k] - theirs[task][k]) for task in theirs for k in theirs[task])
    if not cosine >= 1 - COSINE_TOLERANCE or not difference <= ACCURACY_TOLERANCE or results.keys() != theirs.keys():
        raise RunError(
            f"ours and the reference do not agree: cosine of embeddings {cosine:.4f} (at least {1 - COSINE_TOLERANCE}),"
            f" accuracies differ by {difference:.3f} % (at most {ACCURACY_TOLERANCE})"
        )
    return {"lowest_cosine": cosine, "accuracy_difference": difference}
