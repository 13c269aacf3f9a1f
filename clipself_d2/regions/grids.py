"""Image patches: the regular grids from which CLIPSelf draws its regions (paper section 3.2, "image patches")."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from clipself_d2.errors import InputError

GRID_RULES = ("released", "paper")


@lru_cache(maxsize=32)
def grid_shapes(max_split: int, rule: str = "released") -> tuple[tuple[int, int], ...]:
    """The grids that may be drawn, each with the same probability.

    Args:
        max_split: M, the most rows or columns of a grid.
        rule: ``"paper"``: rows and columns drawn independently from 1..M, M * M grids. ``"released"``: only the pairs
            of the released code, whose number of columns is between half and twice the number of rows; 24 for M = 6.

    Returns:
        Pairs of (rows, columns).

    Raises:
        InputError: another rule, or a max_split below 1.
    """
    if max_split < 1:
        raise InputError(f"max_split is {max_split}: give a whole number of at least 1")
    sides = range(1, max_split + 1)
    if rule == "paper":
        return tuple((rows, columns) for rows in sides for columns in sides)
    if rule == "released":
        return tuple((rows, columns) for rows in sides for columns in sides if rows <= 2 * columns <= 4 * rows)
    raise InputError(f"grid rule {rule!r} is unknown: use one of {', '.join(GRID_RULES)}")


def grid_boxes(rows: int, columns: int, height: int, width: int) -> Tensor:
    """The cells of a regular grid, which cover an image exactly without overlap.

    Args:
        rows: number of rows.
        columns: number of columns.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        rows * columns x 4 float tensor of ``x0, y0, x1, y1`` in pixels, row by row. Neighbors share an edge to the bit.
    """
    y = np.linspace(0.0, height, rows + 1)
    x = np.linspace(0.0, width, columns + 1)
    y0, x0 = np.meshgrid(y[:-1], x[:-1], indexing="ij")
    y1, x1 = np.meshgrid(y[1:], x[1:], indexing="ij")
    return torch.from_numpy(np.stack([x0, y0, x1, y1], axis=-1).reshape(-1, 4).astype(np.float32))


class GridRegions:
    """Draws the regions of a training image from a grid: student box and teacher crop are the same cell.

    Args:
        max_split: see `grid_shapes`.
        rule: see `grid_shapes`.
        max_regions: cells kept, drawn at random (released code: 20).

    Raises:
        InputError: an unknown rule, or numbers below 1.
    """

    def __init__(self, max_split: int = 6, rule: str = "released", max_regions: int = 20) -> None:
        grid_shapes(max_split, rule)
        if max_regions < 1:
            raise InputError(f"max_regions is {max_regions}: give a whole number of at least 1")
        self.max_split = max_split
        self.rule = rule
        self.max_regions = max_regions

    def __call__(
        self, image_id: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one grid and up to `max_regions` of its cells; `rng` is the only source of randomness.

        Returns:
            The student's boxes and the teacher's crops, both R x 4 in pixels, R >= 1, and the R numbers of the crops.
        """
        shapes = grid_shapes(self.max_split, self.rule)
        shape = int(rng.integers(len(shapes)))
        rows, columns = shapes[shape]
        cells = torch.from_numpy(rng.permutation(rows * columns)[: self.max_regions])
        boxes = grid_boxes(rows, columns, height, width)[cells]
        return boxes, boxes.clone(), cells + sum(rows * columns for rows, columns in shapes[:shape])

    def num_crops(self, image_id: int) -> int:
        """Return the number N of crops of an image: 361 for ``"released"`` and M = 6."""
        return sum(rows * columns for rows, columns in grid_shapes(self.max_split, self.rule))

    def all_crops(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return every crop that may be drawn of an image, N x 4 in pixels, and the numbers 0..N-1."""
        cells = [grid_boxes(*shape, height, width) for shape in grid_shapes(self.max_split, self.rule)]
        return torch.cat(cells), torch.arange(self.num_crops(image_id))
