"""The pictures of an entry, drawn from its finished runs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import get_dataset, read_image
from clipself_d2.data.labels import ignore_label
from clipself_d2.engine.inference import load_trained
from clipself_d2.regions import dense_features, letterbox_images
from clipself_d2.reproduce.outcome import Outcome
from clipself_d2.reproduce.plan import Job, Planner, distinct
from clipself_d2.reproduce.table import Table
from clipself_d2.visualization import compare_kmeans, compare_segmentations

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
    records = some_records(before.config.dataloader.test.dataset)
    images = [read_image(record["file_name"]) for record in records]
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


def draw_segmentations(table: Table, outcome: Outcome, planner: Planner, folder: Path) -> list[Path]:
    """What the models of a table's rows make of some held-out photographs of the first row's data set (table 5).

    Returns:
        The `.png`: photograph, labels, and a column a model.
    """
    jobs = {row.label: planner.job(row.run) for row in table.rows}
    test = next(iter(jobs.values())).config.dataloader.test
    mapper = instantiate(test.mapper)
    samples = [mapper(record) for record in some_records(test.dataset)]
    truths = [s["sem_seg"].masked_fill(s["sem_seg"] == ignore_label(s), -1) for s in samples]
    found = {}
    for label, job in jobs.items():
        if job.config.dataloader.test.dataset == test.dataset:
            found[label] = segment(build_model(job), samples)
    images = [sample["image"] for sample in samples]
    path = folder / "segmentations.png"
    compare_segmentations(images, truths, found, MetadataCatalog.get(test.dataset).stuff_classes).save(path)
    return [path]


@torch.inference_mode()
def segment(model: nn.Module, samples: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """The best class of every pixel, H x W long on the CPU, by a semantic segmenter."""
    return [model([sample])[0]["sem_seg"].argmax(dim=0).cpu() for sample in samples]


def some_records(dataset: str) -> list[dict[str, Any]]:
    """A few photographs of a data set, the same every time, from all over it."""
    records = get_dataset(dataset)
    return records[:: max(1, len(records) // PICTURES)][:PICTURES]


def build_model(job: Job) -> nn.Module:
    """The model that a finished job's numbers are of, in evaluation mode on the config's device."""
    weights = str(job.product) if job.run.trains else job.config.train.init_checkpoint
    return load_trained(job.config.copy(), weights or None)


def build_tower(job: Job) -> ImageTower:
    """The image tower that a finished job's numbers are of."""
    config: DictConfig = job.config.copy()
    config.clip.pretrained = str(job.tower)
    return instantiate(config.model.tower)


@torch.inference_mode()
def dense_maps(tower: ImageTower, images: list[Tensor], size: int) -> list[Tensor]:
    """The dense map of each image alone, the letterbox's padding neither read nor returned.

    Args:
        tower: of any family.
        images: 3 x H_i x W_i uint8.
        size: side of the square that images are letterboxed into.

    Returns:
        C x h_i x w_i for each image.
    """
    maps = []
    for image in images:
        features = dense_features(tower, letterbox_images(tower, [image], size))
        height, width = (math.ceil(side / tower.stride) for side in features.sizes[0])
        maps.append(features.dense[0, :, :height, :width])
    return maps


FIGURES: dict[str, Callable[[Table, Outcome, Planner, Path], list[Path]]] = {
    "curves": draw_curves,
    "kmeans": draw_kmeans,
    "coherence": take_coherence,
    "segmentations": draw_segmentations,
}
