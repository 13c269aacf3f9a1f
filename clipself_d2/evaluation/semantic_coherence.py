"""Semantic coherence of dense features: does the likeness of two patches tell that they are of one object or class?

The study is PACL's (Mukhoti et al., CVPR 2023): the cosine of two patches as a detector of "these belong together", its
ROC curve over all thresholds and the area below. It needs no text, so it judges what a tower's map is good for before
any vocabulary; 50 is chance.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from clipself_d2.clip import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.evaluation.detections import Results, from_main
from clipself_d2.regions import letterbox, letterbox_masks, letterboxed_features
from clipself_d2.regions.crops import content_sizes

RELATIONS = {
    "object": "same object",
    "class": "same class, one image",
    "class_across": "same class, two images",
}
"""What a pair of patches may have in common."""

# Pairs that are compared at once in and across images: 64 MiB of cosines.
_MAX_PAIRS = 2**24


class SimilarityHistogram:
    """Counts of similar and dissimilar pairs by cosine: any number of pairs in 256 KiB.

    Attributes:
        counts: 2 x bins long over -1..1; first the pairs that do not belong together, then those that do.
    """

    BINS = 2**14

    def __init__(self) -> None:
        """Begins without pairs."""
        self.counts = torch.zeros(2, self.BINS, dtype=torch.long)

    def add(self, cosines: Tensor, together: Tensor) -> None:
        """Counts pairs.

        Args:
            cosines: of any shape; values that are not finite count as -1.
            together: bool of the same shape.
        """
        bins = ((cosines.nan_to_num(-1, -1, -1) + 1) * (self.BINS / 2)).long().clamp(0, self.BINS - 1)
        counts = (bins + together * self.BINS).flatten().bincount(minlength=2 * self.BINS)
        self.counts += counts.view(2, self.BINS).cpu()

    @property
    def has_both(self) -> bool:
        """Whether there are pairs of both kinds, without which there is no curve."""
        return bool(self.counts.any(dim=1).all())

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """The curve over falling thresholds.

        Returns:
            Rates of false and of true positives, 0..1, both beginning at 0 and ending at 1; NaN where there is no pair
            of a kind.
        """
        above = np.cumsum(self.counts.numpy()[:, ::-1], axis=1)
        points = np.concatenate([np.zeros((2, 1)), above], axis=1)
        with np.errstate(invalid="ignore"):
            false, true = points / points[:, -1:]
        return false, true

    def auc(self) -> float:
        """The chance that a pair that belongs together is more alike than one that does not: area below the curve.

        Returns:
            0..1; NaN where there is no pair of a kind. Pairs that share a bin count half, as ties do.
        """
        false, true = self.roc()
        return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def labelled_cells(masks: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """The cells of the letterboxed image's map that lie for more than half in one segment.

    Args:
        masks: R x H x W bool, disjoint, in pixels of the image.
        grid: rows, and columns, of the map.

    Returns:
        Numbers of the cells, row by row, and the segment 0..R-1 of each.
    """
    if not len(masks):
        none = torch.zeros(0, dtype=torch.long)
        return none, none
    share, segment = letterbox_masks(masks, grid).flatten(1).max(dim=0)
    cells = (share > 0.5).nonzero()[:, 0]
    return cells, segment[cells]


def sample_per_group(groups: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Draws at most `limit` members of each group: their places, in order."""
    order = np.lexsort((rng.random(len(groups)), groups))
    sorted_groups = groups[order]
    rank = np.arange(len(groups)) - np.searchsorted(sorted_groups, sorted_groups)
    return np.sort(order[rank < limit])


@torch.no_grad()
def dense_features(
    towers: Mapping[str, ImageTower],
    inputs: Sequence[Mapping[str, Any]],
    size: int,
    modes: Sequence[str] = ("no_attn",),
    blocks: Sequence[int] = (),
) -> list[dict[str, Tensor]]:
    """The maps that the evaluator compares, of several towers.

    Args:
        towers: by name, all on one device.
        inputs: samples with ``image``, 3 x H x W uint8 RGB.
        size: side of the towers' square input, into which images are letterboxed; patches of padding are left out.
        modes: dense modes.
        blocks: numbers of blocks whose features are wanted too; the last one's are those of the first dense_mode.

    Returns:
        For every image its maps of the square, C x g x g, by ``"TOWER, MODE"`` and ``"TOWER, block NUMBER"``.

    Raises:
        InputError: a size that does not fit a tower, or a dense_mode or block that a tower has not.
    """
    maps: list[dict[str, Tensor]] = [{} for _ in inputs]
    for name, tower in towers.items():
        tower.check_size(size, "size")
        images = [x["image"].to(tower.pixel_mean.device) for x in inputs]
        pixels, scales = letterbox(images, size)
        pixels, sizes = tower.normalize(pixels), content_sizes(images, scales)
        for number, dense_mode in enumerate(modes):
            dense, of_blocks = letterboxed_features(tower, pixels, sizes, () if number else blocks, dense_mode)
            kinds = {f"{name}, {dense_mode}": dense}
            kinds.update((f"{name}, block {b}", map_) for b, map_ in zip(blocks, of_blocks, strict=not number))
            for kind, batch in kinds.items():
                for own, map_ in zip(maps, batch, strict=True):
                    own[kind] = map_
    return maps


class SemanticCoherenceEvaluator(DatasetEvaluator):
    """Compares patches in pairs, for several kinds of features at once: all kinds of one grid see the same pairs.

    A patch belongs to the segment that covers more than half of it; crowds are left out. In every image the patches
    drawn of each segment are compared with each other, and a few of them, at the end, with those of all other images.
    """

    def __init__(self, dataset_name: str, *, per_segment: int = 8, across: int = 8, seed: int = 0):
        """Prepares for a data set.

        Args:
            dataset_name: for messages.
            per_segment: most patches that are drawn of a segment, so that a wide ground does not outvote the things.
            across: patches of an image that are compared with those of others.
            seed: of the draws, which depend on it and on the image's id alone.
        """
        if per_segment < 2 or across < 1:
            raise InputError(f"per_segment={per_segment}, across={across}: take at least 2 and 1 patches to compare")
        self.dataset_name = dataset_name
        self.per_segment = per_segment
        self.across = across
        self.seed = seed
        self.histograms: dict[str, dict[str, SimilarityHistogram]] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self.histograms = {}
        self._images = 0
        self._device = torch.device("cpu")
        # Of each kind: features, classes and image of the patches for comparisons across images.
        self._pool: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    @torch.no_grad()
    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Compares the patches of some images.

        Args:
            inputs: samples of a `PanopticMapper`.
            outputs: for each any number of square maps of the letterboxed image, C x g x g, by name.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            number = self._images * comm.get_world_size() + comm.get_rank()
            self._images += 1
            drawn = {grid: self._draw(sample, grid) for grid in {map_.shape[-1] for map_ in output.values()}}
            for kind, map_ in output.items():
                self._device = map_.device
                cells, segments, classes, pooled = (x.to(map_.device) for x in drawn[map_.shape[-1]])
                features = F.normalize(map_.flatten(1)[:, cells].T.float(), dim=1)
                self._pool.setdefault(kind, []).append((features[pooled], classes[pooled], number))
                first, second = torch.triu_indices(len(cells), len(cells), 1, device=map_.device)
                cosines = (features @ features.T)[first, second]
                if "pan_seg_file_name" in sample:
                    self._count(kind, "object", cosines, segments[first] == segments[second])
                self._count(kind, "class", cosines, classes[first] == classes[second])

    def _draw(self, sample: Mapping[str, Any], grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Numbers of the cells, their segments and classes, and which of them are for comparisons across images."""
        single = ~sample["iscrowd"]
        cells, segments = labelled_cells(sample["masks"][single], grid)
        rng = np.random.default_rng([self.seed, zlib.crc32(str(sample["image_id"]).encode())])
        drawn = torch.from_numpy(sample_per_group(segments.cpu().numpy(), self.per_segment, rng))
        cells, segments = cells[drawn], segments[drawn]
        pooled = torch.from_numpy(np.sort(rng.permutation(len(drawn))[: self.across]))
        return cells, segments, sample["classes"][single][segments], pooled

    def _count(self, kind: str, relation: str, cosines: Tensor, together: Tensor) -> None:
        of_kind = self.histograms.setdefault(kind, {})
        of_kind.setdefault(relation, SimilarityHistogram()).add(cosines, together)

    def evaluate(self) -> Results:
        """Compares across images, and sums up over all ranks.

        `histograms` then has, on rank 0, the counts of all kinds and relations.

        Returns:
            The same on all ranks: for every kind of features the area under the curve, in percent, of each of
            `RELATIONS`; that of objects is absent where the data set has no panoptic labels, and any that lacks pairs
            of either kind.

        Raises:
            InputError: if there was nothing to compare.
        """
        pool = {kind: [(f.cpu(), c.cpu(), i) for f, c, i in parts] for kind, parts in self._pool.items()}
        gathered = comm.gather((self.histograms, pool))
        return from_main(lambda: self._sum_up(gathered))

    def _sum_up(self, gathered: Sequence[tuple[dict, dict]]) -> Results:
        own, pool = gathered[0]
        for histograms, parts in gathered[1:]:
            for kind, relations in histograms.items():
                pool.setdefault(kind, []).extend(parts[kind])
                for relation, histogram in relations.items():
                    mine = own.setdefault(kind, {}).setdefault(relation, SimilarityHistogram())
                    mine.counts += histogram.counts
        self.histograms = own
        for kind, parts in pool.items():
            own[kind]["class_across"] = compare_across(
                [(f.to(self._device), c.to(self._device), i) for f, c, i in parts]
            )
        areas = {
            kind: {r: 100 * h.auc() for r, h in relations.items() if h.has_both} for kind, relations in own.items()
        }
        if not any(areas.values()):
            raise InputError(f"data set {self.dataset_name!r} gave no patches to compare: check its annotations")
        return areas


def compare_across(parts: Sequence[tuple[Tensor, Tensor, int]]) -> SimilarityHistogram:
    """Compares all patches of different images.

    Args:
        parts: for every image n x C unit features, n classes, and the image's number.
    """
    features, classes = (torch.cat(column) for column in list(zip(*parts, strict=True))[:2])
    images = torch.cat([c.new_full((len(c),), number) for _, c, number in parts])
    histogram = SimilarityHistogram()
    run = max(1, _MAX_PAIRS // max(1, len(features)))
    for start in range(0, len(features), run):
        rows = slice(start, start + run)
        # Each pair once: the second of its images is the later one.
        pairs = images[rows, None] < images
        cosines = features[rows] @ features.T
        histogram.add(cosines[pairs], (classes[rows, None] == classes)[pairs])
    return histogram
