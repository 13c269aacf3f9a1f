"""Scores of classes per pixel, gathered from parts: all of them, or each pixel's best class alone."""

from __future__ import annotations

import torch
from torch import Tensor


class AllScores:
    """Gathers K x H x W scores.

    Args:
        num_classes: K.
        size: H and W.
        device: of the result.
    """

    def __init__(self, num_classes: int, size: tuple[int, int], device: torch.device) -> None:
        self._scores = torch.zeros(num_classes, *size, device=device)

    def add(self, scores: Tensor, rows: slice, first_class: int = 0) -> None:
        """Take the scores of some classes, from `first_class` on, in some rows: k x r x W."""
        self._scores[first_class : first_class + len(scores), rows] = scores

    def result(self) -> dict[str, Tensor]:
        """Return ``sem_seg``, K x H x W."""
        return {"sem_seg": self._scores}


class BestClass:
    """Keeps the best class of each pixel, of equal ones the first; memory does not grow with the classes.

    Args:
        size: H and W.
        device: of the result.
    """

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self._scores = torch.full(size, -torch.inf, device=device)
        self._labels = torch.zeros(size, dtype=torch.int32, device=device)

    def add(self, scores: Tensor, rows: slice, first_class: int = 0) -> None:
        """See `AllScores.add`; classes come in ascending order."""
        best, label = scores.max(dim=0)
        better = best > self._scores[rows]
        self._scores[rows] = best.where(better, self._scores[rows])
        self._labels[rows] = (label.int() + first_class).where(better, self._labels[rows])

    def result(self) -> dict[str, Tensor]:
        """Return ``labels`` (H x W int32, classes) and ``label_scores`` (H x W)."""
        return {"labels": self._labels, "label_scores": self._scores}


def new_result(
    labels_only: bool, num_classes: int, size: tuple[int, int], device: torch.device
) -> AllScores | BestClass:
    """Return a `BestClass`, or `AllScores`."""
    return BestClass(size, device) if labels_only else AllScores(num_classes, size, device)
