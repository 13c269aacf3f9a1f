"""The pictures of an entry, drawn from its finished runs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import get_dataset, read_image
from clipself_d2.regions import letterbox
from clipself_d2.reproduce.outcome import Outcome
from clipself_d2.reproduce.plan import Job, Planner, distinct
from clipself_d2.reproduce.table import Table
from clipself_d2.visualization import compare_kmeans

PICTURES = 6

_COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49")


def draw_curves(table: Table, outcome: Outcome, planner: Planner, folder: Path) -> list[Path]:
    """A curve for each series of rows, and a level line for a row without a place (figures 3 and A1).

    Returns:
        The `.png` and the `.svg`.
    """
    from matplotlib.figure import Figure  # slow to import

    column = table.columns[0]
    ours = [row["ours"][column] for row in outcome["rows"]]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for colour, series in zip(_COLOURS, dict.fromkeys(row.series for row in table.rows), strict=False):
        points = [(row.x, y) for row, y in zip(table.rows, ours, strict=True) if row.series == series and y is not None]
        if any(x is None for x, _ in points):
            axes.axhline(points[0][1], color=colour, linestyle="--", label=series)
        else:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=series)
    axes.set_xticks(sorted({row.x for row in table.rows if row.x is not None}))
    axes.set(xlabel="input size, pixels", ylabel=f"{column}, %", title=table.title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    paths = [folder / "accuracy.png", folder / "accuracy.svg"]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths


def draw_kmeans(table: Table, outcome: Outcome, planner: Planner, folder: Path) -> list[Path]:
    """K-Means maps of some held-out photographs by the towers of the first and the last row (figure 4).

    Returns:
        The `.png`: photograph, before, after.
    """
    before, after = planner.job(table.rows[0].run), planner.job(table.rows[-1].run)
    records = get_dataset(before.config.dataloader.test.dataset)
    step = max(1, len(records) // PICTURES)
    images = [read_image(record["file_name"]) for record in records[::step][:PICTURES]]
    first, second = (dense_maps(build_tower(job), images, job.config.model.student_size) for job in (before, after))
    path = folder / "kmeans.png"
    compare_kmeans(images, first, second).save(path)
    return [path]


def take_coherence(table: Table, outcome: Outcome, planner: Planner, folder: Path) -> list[Path]:
    """The curves that `tools/probe_coherence.py` has drawn (table A2).

    Returns:
        A `.png` for each of the table's probes.
    """
    probes = distinct([[planner.job(row.run) for row in table.rows if row.run.tool == "probe_coherence"]])
    paths = [folder / f"coherence{'' if i == 0 else i + 1}.png" for i in range(len(probes))]
    for probe, path in zip(probes, paths, strict=True):
        assert probe.product
        shutil.copyfile(probe.product, path)
    return paths


def build_tower(job: Job) -> ImageTower:
    """The image tower that a finished job's numbers are of."""
    config: DictConfig = job.config.copy()
    config.clip.pretrained = str(job.tower)
    return instantiate(config.model.tower)


@torch.inference_mode()
def dense_maps(tower: ImageTower, images: list[Tensor], size: int) -> list[Tensor]:
    """The dense map of each image alone, without the letterbox's padding.

    Args:
        tower: of any family.
        images: 3 x H_i x W_i uint8.
        size: side of the square that images are letterboxed into.

    Returns:
        C x h_i x w_i for each image.
    """
    maps = []
    for image in images:
        pixels, [scale] = letterbox([image], size)
        height, width = (math.ceil(side * scale / tower.stride) for side in image.shape[1:])
        maps.append(tower.dense_embeddings(tower.normalize(pixels))[0, :, :height, :width])
    return maps


FIGURES: dict[str, Callable[[Table, Outcome, Planner, Path], list[Path]]] = {
    "curves": draw_curves,
    "kmeans": draw_kmeans,
    "coherence": take_coherence,
}
