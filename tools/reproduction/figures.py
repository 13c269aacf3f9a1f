"""The figures of a table, drawn from its finished runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import get_dataset, read_image
from clipself_d2.data.labels import ignore_label
from clipself_d2.engine.inference import load_trained
from clipself_d2.regions import dense_features, letterbox_images
from clipself_d2.visualization import compare_kmeans, compare_segmentations, draw_predictions, image_grid
from reproduction.plan import Job, Planner
from reproduction.tables import Table

Rows = Sequence[dict[str, Any]]
"""Of a table's outcome."""
IMAGES = 6
_COLORS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49")


def draw_curves(table: Table, outcomes: Rows, planner: Planner, folder: Path) -> list[Path]:
    """One curve per series of rows, and a level line for a row without a place (figures 3 and A1): png and svg."""
    from matplotlib.figure import Figure  # slow to import

    column = next(iter(table.columns))
    ours = [row["ours"][column] for row in outcomes]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for color, series in zip(_COLORS, dict.fromkeys(row.series for row in table.rows), strict=False):
        points = [(row.x, y) for row, y in zip(table.rows, ours, strict=True) if row.series == series and y is not None]
        if any(x is None for x, _ in points):
            axes.axhline(points[0][1], color=color, linestyle="--", label=series)
        else:
            axes.plot(*zip(*points, strict=True), color=color, marker="o", label=series)
    axes.set_xticks(sorted({row.x for row in table.rows if row.x is not None}))
    axes.set(xlabel="input size, pixels", ylabel=f"{column}, %", title=table.title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    paths = [folder / "accuracy.png", folder / "accuracy.svg"]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths


def draw_kmeans(table: Table, outcomes: Rows, planner: Planner, folder: Path) -> list[Path]:
    """K-Means maps of held-out images by the towers of the last two rows (figures 1 and 4): image, before, after."""
    jobs = [planner.job(table.rows[i].run) for i in (-2, -1)]
    images = [read_image(record["file_name"]) for record in some_records(jobs[0].config.dataloader.test.dataset)]
    before, after = (dense_maps(build_tower(job), images, job.config.model.student_size) for job in jobs)
    path = folder / "kmeans.png"
    compare_kmeans(images, {"before": before, "after": after}).save(path)
    return [path]


def draw_segmentations(table: Table, outcomes: Rows, planner: Planner, folder: Path) -> list[Path]:
    """What the models of the rows make of images of the first row's data set (table 5): image, labels, models."""
    jobs = {row.label: planner.job(row.run) for row in table.rows}
    test = next(iter(jobs.values())).config.dataloader.test
    mapper = instantiate(test.mapper)
    samples = [mapper(record) for record in some_records(test.dataset)]
    truths = [s["sem_seg"].masked_fill(s["sem_seg"] == ignore_label(s), -1) for s in samples]
    found = {
        label: [output["labels"].long().cpu() for output in predict(load_model(job), samples)]
        for label, job in jobs.items()
        if job.config.dataloader.test.dataset == test.dataset
    }
    images = [sample["image"] for sample in samples]
    path = folder / "segmentations.png"
    compare_segmentations(images, truths, found, MetadataCatalog.get(test.dataset).stuff_classes).save(path)
    return [path]


def draw_detections(table: Table, outcomes: Rows, planner: Planner, folder: Path) -> list[Path]:
    """The boxes that the detectors of the rows find in images of the first row's data set, a column per row."""
    jobs = {row.label: planner.job(row.run) for row in table.rows}
    records = some_records(next(iter(jobs.values())).config.dataloader.test.dataset)[::2]
    samples = [{"image": read_image(record["file_name"])} for record in records]
    columns = []
    for job in jobs.values():
        model = load_model(job)
        words: Any = model.vocabulary
        columns.append(
            [
                draw_predictions(
                    sample["image"], {"instances": output["instances"].to("cpu")}, words.names, words.is_base, 0.5
                )
                for sample, output in zip(samples, predict(model, samples), strict=True)
            ]
        )
    path = folder / "detections.png"
    image_grid(list(zip(*columns, strict=True)), tuple(jobs), width=480).save(path)
    return [path]


def take_coherence(table: Table, outcomes: Rows, planner: Planner, folder: Path) -> list[Path]:
    """The curves that `clipself coherence` has drawn, one figure per probe."""
    jobs = [planner.job(row.run) for row in table.rows if row.run.tool == "probe_coherence"]
    probes = {job.digest: job for job in jobs}.values()
    paths = [folder / f"coherence{'' if i == 0 else i + 1}.png" for i in range(len(probes))]
    for probe, path in zip(probes, paths, strict=True):
        shutil.copyfile(str(probe.product), path)
    return paths


def load_model(job: Job) -> nn.Module:
    """The model that a finished job's numbers are of."""
    weights = str(job.product) if job.run.trains else job.config.train.init_checkpoint
    return load_trained(job.config.copy(), weights or None)


@torch.inference_mode()
def predict(model: nn.Module, samples: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A model's outputs for samples, one at a time."""
    for sample in samples:
        yield model([sample])[0]


def some_records(dataset: str) -> list[dict[str, Any]]:
    """A few images of a data set, the same every time, from all over it."""
    records = get_dataset(dataset)
    return records[:: max(1, len(records) // IMAGES)][:IMAGES]


def build_tower(job: Job) -> ImageTower:
    """The image tower that a finished job's numbers are of: what it exports, or else what its config names."""
    config = job.config.copy()
    if job.run.trains:
        config.clip.pretrained = str(job.product)
    return instantiate(config.model.tower)


@torch.inference_mode()
def dense_maps(tower: ImageTower, images: Sequence[Tensor], size: int) -> list[Tensor]:
    """The dense map of each image alone, C x h_i x w_i, without the letterbox's padding.

    Args:
        tower: of any family.
        images: 3 x H_i x W_i uint8.
        size: side of the square that images are letterboxed into.
    """
    alone = (dense_features(tower, letterbox_images(tower, [image], size)) for image in images)
    return [dense for features in alone for dense in features.without_padding()]


FIGURES: dict[str, Callable[[Table, Rows, Planner, Path], list[Path]]] = {
    "curves": draw_curves,
    "kmeans": draw_kmeans,
    "detections": draw_detections,
    "coherence": take_coherence,
    "segmentations": draw_segmentations,
}
