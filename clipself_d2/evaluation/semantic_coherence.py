"""Semantic coherence of dense features: do two patches with a high cosine belong to one object or class?

The study is PACL's (Mukhoti et al., CVPR 2023): the cosine of two patches as a detector of pairs that belong together,
its ROC curve over all thresholds and the area below. It needs no text. An area of 50 % is chance.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

from clipself_d2.clip import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.regions import dense_features, letterbox_images, letterbox_masks

RELATIONS = {
    "object": "same object",
    "class": "same class, one image",
    "class_across": "same class, two images",
}
"""What a pair of patches may have in common."""

_MAX_PAIRS = 2**24  # pairs that are compared at once across images: 64 MiB of cosines


class SimilarityHistogram:
    """Counts of pairs by cosine: any number of pairs in 256 KiB.

    Attributes:
        counts: 2 x bins long over -1..1; first the pairs that do not belong together, then those that do.
    """

    BINS = 2**14

    def __init__(self) -> None:
        self.counts = torch.zeros(2, self.BINS, dtype=torch.long)

    def add(self, cosines: Tensor, together: Tensor) -> None:
        """Count pairs.

        Args:
            cosines: of any shape; values that are not finite count as -1.
            together: bool of the same shape.
        """
        bins = ((cosines.nan_to_num(-1, -1, -1) + 1) * (self.BINS / 2)).long().clamp(0, self.BINS - 1)
        counts = (bins + together * self.BINS).flatten().bincount(minlength=2 * self.BINS)
        self.counts += counts.view(2, self.BINS).cpu()

    @property
    def has_both(self) -> bool:
        """Whether there are pairs of both kinds; without them there is no curve."""
        return bool(self.counts.any(dim=1).all())

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute the curve over falling thresholds.

        Returns:
            Rates of false and of true positives, each from 0 to 1; NaN where there is no pair of a kind.
        """
        above = np.cumsum(self.counts.numpy()[:, ::-1], axis=1)
        points = np.concatenate([np.zeros((2, 1)), above], axis=1)
        with np.errstate(invalid="ignore"):
            false, true = points / points[:, -1:]
        return false, true

    def auc(self) -> float:
        """Compute the area below the curve.

        Returns:
            0..1, the probability that a pair that belongs together has a higher cosine than one that does not; NaN
            where there is no pair of a kind. Pairs in one bin count half, as ties do.
        """
        false, true = self.roc()
        return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def labeled_cells(masks: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Find the cells of the letterboxed image's map of which one segment covers more than half.

    Args:
        masks: R x H x W bool, disjoint, in pixels of the image.
        grid: rows and columns of the map.

    Returns:
        Indices of the cells, row by row, and the segment 0..R-1 of each.
    """
    if not len(masks):
        none = torch.zeros(0, dtype=torch.long)
        return none, none
    share, segment = letterbox_masks(masks, grid).flatten(1).max(dim=0)
    cells = (share > 0.5).nonzero()[:, 0]
    return cells, segment[cells]


def sample_per_group(groups: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Draw up to `limit` members of each group; return their positions in order."""
    order = np.lexsort((rng.random(len(groups)), groups))
    sorted_groups = groups[order]
    rank = np.arange(len(groups)) - np.searchsorted(sorted_groups, sorted_groups)
    return np.sort(order[rank < limit])


@torch.no_grad()
def tower_features(
    towers: Mapping[str, ImageTower],
    inputs: Sequence[Mapping[str, Any]],
    size: int,
    modes: Sequence[str] = ("no_attn",),
    blocks: Sequence[int] = (),
) -> list[dict[str, Tensor]]:
    """Compute the maps that the evaluator compares, of several towers.

    Args:
        towers: by name, all on one device.
        inputs: samples with ``image``, 3 x H x W uint8 RGB.
        size: side of the towers' square input, into which images are letterboxed.
        modes: dense modes.
        blocks: numbers of blocks whose features are wanted too, in the first dense mode.

    Returns:
        For each image its maps of the square, C x g x g, by ``"TOWER, MODE"`` and ``"TOWER, block NUMBER"``; zeros in
        the padding.

    Raises:
        InputError: if the size does not fit a tower, or a tower lacks a dense mode or block.
    """
    maps: list[dict[str, Tensor]] = [{} for _ in inputs]
    for name, tower in towers.items():
        tower.check_size(size, "size")
        images = letterbox_images(tower, [x["image"] for x in inputs], size)
        for number, dense_mode in enumerate(modes):
            features = dense_features(tower, images, blocks=() if number else blocks, dense_mode=dense_mode)
            kinds = {f"{name}, {dense_mode}": features.dense}
            kinds.update((f"{name}, block {b}", map_) for b, map_ in zip(blocks, features.blocks, strict=not number))
            for kind, batch in kinds.items():
                for own, map_ in zip(maps, batch, strict=True):
                    own[kind] = map_
    return maps


class SemanticCoherenceEvaluator(DatasetEvaluator):
    """Compare patches in pairs, for several kinds of features at once, in one process.

    A patch belongs to the segment that covers more than half of it; crowds are left out. Patches are drawn from each
    segment, the same ones for all kinds of one grid. They are compared with each other in every image, and at the end a
    few of them with those of all other images.

    Args:
        dataset_name: for messages.
        per_segment: patches that are drawn from a segment, at most, to keep large segments from outweighing small ones.
        across: patches of an image that are compared with those of others.
        seed: of the draws, which depend on it and on the image's id alone.

    Attributes:
        histograms: after `evaluate`, the counts by kind of features and relation.

    Raises:
        InputError: if per_segment or across leave nothing to compare.
    """

    def __init__(self, dataset_name: str, *, per_segment: int = 8, across: int = 8, seed: int = 0):
        if per_segment < 2 or across < 1:
            raise InputError(f"per_segment={per_segment}, across={across}: take at least 2 and 1 patches to compare")
        self.dataset_name = dataset_name
        self.per_segment = per_segment
        self.across = across
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.histograms: dict[str, dict[str, SimilarityHistogram]] = {}
        self._images = 0
        # By kind: features, classes and image of the patches for comparisons across images.
        self._pool: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    @torch.no_grad()
    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Compare the patches of some images.

        Args:
            inputs: samples of a `PanopticMapper`.
            outputs: for each any number of square maps of the letterboxed image, C x g x g, by name.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            self._images += 1
            drawn = {grid: self._draw(sample, grid) for grid in {map_.shape[-1] for map_ in output.values()}}
            for kind, map_ in output.items():
                cells, segments, classes, pooled = (x.to(map_.device) for x in drawn[map_.shape[-1]])
                features = F.normalize(map_.flatten(1)[:, cells].T.float(), dim=1)
                self._pool.setdefault(kind, []).append((features[pooled], classes[pooled], self._images))
                first, second = torch.triu_indices(len(cells), len(cells), 1, device=map_.device)
                cosines = (features @ features.T)[first, second]
                if "pan_seg_file_name" in sample:
                    self._count(kind, "object", cosines, segments[first] == segments[second])
                self._count(kind, "class", cosines, classes[first] == classes[second])

    def _draw(self, sample: Mapping[str, Any], grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the drawn cells, their segments and classes, and which of them are compared across images."""
        single = ~sample["iscrowd"]
        cells, segments = labeled_cells(sample["masks"][single], grid)
        rng = np.random.default_rng([self.seed, zlib.crc32(str(sample["image_id"]).encode())])
        drawn = torch.from_numpy(sample_per_group(segments.cpu().numpy(), self.per_segment, rng))
        cells, segments = cells[drawn], segments[drawn]
        pooled = torch.from_numpy(np.sort(rng.permutation(len(drawn))[: self.across]))
        return cells, segments, sample["classes"][single][segments], pooled

    def _count(self, kind: str, relation: str, cosines: Tensor, together: Tensor) -> None:
        of_kind = self.histograms.setdefault(kind, {})
        of_kind.setdefault(relation, SimilarityHistogram()).add(cosines, together)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compare across images.

        Returns:
            For each kind of features the area under the curve in percent of each of `RELATIONS`. Objects are absent
            where the data set has no panoptic labels, and so is any relation that lacks pairs of either kind.

        Raises:
            InputError: if there was nothing to compare.
        """
        for kind, parts in self._pool.items():
            self.histograms[kind]["class_across"] = compare_across(parts)
        areas = {
            kind: {relation: 100 * counts.auc() for relation, counts in of_kind.items() if counts.has_both}
            for kind, of_kind in self.histograms.items()
        }
        if not any(areas.values()):
            raise InputError(f"data set {self.dataset_name!r} gave no patches to compare: check its annotations")
        return areas


def compare_across(parts: Sequence[tuple[Tensor, Tensor, int]]) -> SimilarityHistogram:
    """Compare all patches of different images.

    Args:
        parts: for each image n x C unit features, n classes, and the image's number.
    """
    features, classes = (torch.cat(column) for column in list(zip(*parts, strict=True))[:2])
    images = torch.cat([c.new_full((len(c),), number) for _, c, number in parts])
    histogram = SimilarityHistogram()
    chunk = max(1, _MAX_PAIRS // max(1, len(features)))
    for start in range(0, len(features), chunk):
        rows = slice(start, start + chunk)
        # Each pair once: the second of its images is the later one.
        pairs = images[rows, None] < images
        cosines = features[rows] @ features.T
        histogram.add(cosines[pairs], (classes[rows, None] == classes)[pairs])
    return histogram
