"""Region classification by the released recipe's arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import reference
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from clipself_d2.clip import ImageTower
from clipself_d2.regions import RegionEmbedder

LEAST_COSINE = 0.98  # of a region's embeddings by the two paths
ACCURACY_TOLERANCE = 0.01  # percent, of the same embeddings

_MEAN_SEGMENTS, _MOST_SEGMENTS = 11, 30  # per image of COCO panoptic


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
    with harness.with_padding(embedder), torch.inference_mode(), precision:
        found = embedder(samples)
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
