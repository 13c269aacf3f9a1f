"""The correlation of patches with each other, which successors of CLIPSelf teach beside the crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.dense_modes import patch_correlation
from clipself_d2.clip.tower import ImageTower
from clipself_d2.clip.transformer import TransformerTower
from clipself_d2.errors import InputError
from clipself_d2.regions.dense import DenseFeatures, LetterboxedImages


def row_distances(student: Tensor, guide: Tensor, visible: Tensor, temperature: float | None = None) -> Tensor:
    """How far the rows of the student's correlations are from the guide's.

    Args:
        student: B x N x N.
        guide: likewise.
        visible: B x N bool; other locations neither count nor are compared.
        temperature: None takes the Euclidean distance of two rows (DeCLIP's released code). A number takes their
            cross-entropy, as distributions by a softmax at that temperature (R-SC-CLIPSelf).

    Returns:
        B, the mean over the visible rows of an image.
    """
    columns = visible[:, None]
    if temperature is None:
        # A vector without length has no gradient: the smallest float keeps it finite.
        squares = (student - guide).square().masked_fill(~columns, 0).sum(dim=-1)
        distances = squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
    else:
        hidden = torch.finfo(student.dtype).min
        targets = (guide / temperature).masked_fill(~columns, hidden).softmax(dim=-1)
        logarithms = (student / temperature).masked_fill(~columns, hidden).log_softmax(dim=-1)
        distances = -(targets * logarithms.masked_fill(~columns, 0)).sum(dim=-1)
    return (distances * visible).sum(dim=1) / visible.sum(dim=1).clamp(min=1)


class CorrelationLoss:
    """Teaches the student's patches to resemble each other as a guide's do.

    Args:
        guide: maps letterboxed images, B x 3 x S x S in 0..1, to features B x C x gh x gw; see `distillation.guides`.
        weight: of the loss beside CLIPSelf's.
        of: what of the student is correlated: the "dense" map, or the last block's "queries" (DeCLIP).
        temperature: see `row_distances`.

    Raises:
        InputError: an unknown `of`.
    """

    def __init__(self, guide: nn.Module, weight: float, of: str = "dense", temperature: float | None = None) -> None:
        if of not in ("dense", "queries"):
            raise InputError(f"model.correlation.of is '{of}': use dense or queries")
        self.guide = guide
        self.weight = weight
        self.of = of
        self.temperature = temperature

    def check(self, tower: ImageTower, dense_mode: str) -> None:
        """Raise an InputError for queries that the tower lacks, or that the dense mode does not read."""
        if self.of != "queries":
            return
        if not isinstance(tower, TransformerTower):
            raise InputError("model.correlation.of=queries: this image tower has none; use of=dense")
        if "q" in tower.unread_parts(dense_mode):
            reading = ", ".join(name for name in tower.dense_modes if "q" not in tower.unread_parts(name))
            raise InputError(
                f"model.correlation.of=queries: dense mode '{dense_mode}' does not read the last block's queries, "
                f"which would train for nothing; use one of {reading}"
            )

    def blocks(self, tower: ImageTower) -> tuple[int, ...]:
        """The blocks whose features the loss reads beside the dense map."""
        return (tower.num_blocks - 2,) if self.of == "queries" else ()

    def __call__(
        self, tower: ImageTower, images: LetterboxedImages, features: DenseFeatures, counts: Sequence[int]
    ) -> Tensor:
        """The weighted loss.

        Where the grids differ, the student's map is resized to the guide's, bilinear. Padding does not count.

        Args:
            tower: the student's.
            images: that the student read.
            features: the student's, with those of `blocks`.
            counts: regions per image, by which images are weighted: the mean over a batch then does not depend on how
                ranks and chunks divide it.

        Returns:
            A scalar.
        """
        student = features.dense
        if self.of == "queries":
            assert isinstance(tower, TransformerTower)
            student = tower.queries(features.blocks[0])
        with torch.no_grad():
            guide = self.guide(images.pixels * tower.pixel_std + tower.pixel_mean)
        grid = guide.shape[-2:]
        if student.shape[-2:] != grid:
            student = F.interpolate(student.float(), grid, mode="bilinear", align_corners=False)
        visible = _visible(images, grid, student.device)
        distances = row_distances(patch_correlation(student), patch_correlation(guide), visible, self.temperature)
        weights = torch.tensor(counts, dtype=distances.dtype).to(distances.device, non_blocking=True)
        return self.weight * (distances * weights).sum() / max(sum(counts), 1)


def _visible(images: LetterboxedImages, grid: Sequence[int], device: torch.device) -> Tensor:
    """The locations of a grid whose center holds something of the image, B x N bool."""
    side = images.pixels.shape[-1]
    ends = torch.tensor(images.sizes).to(device, non_blocking=True)  # B x (height, width)
    rows, columns = ((torch.arange(n, device=device) + 0.5) * side / n for n in grid)
    return ((rows < ends[:, :1])[:, :, None] & (columns < ends[:, 1:])[:, None]).flatten(1)
