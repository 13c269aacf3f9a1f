"""The demo: CLIPSelf on OV-Shapes in a few minutes, shown as a table and an HTML page."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

from clipself_d2.clip import ImageTower, build_towers
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.data import PanopticRegionMapper, get_dataset
from clipself_d2.engine.config import load_config
from clipself_d2.engine.evaluate import evaluate
from clipself_d2.engine.inference import resolve_device
from clipself_d2.engine.run import train
from clipself_d2.miniature.dataset import SPLITS, ensure_ov_shapes
from clipself_d2.miniature.world import CLASSES
from clipself_d2.regions import RegionClassifier, dense_features, letterbox_images
from clipself_d2.visualization import compare_kmeans, draw_boxes, draw_heatmap, image_grid, line_chart
from clipself_d2.visualization.colors import distinct_colors, hex_color
from clipself_d2.visualization.figures import ColorBar
from clipself_d2.visualization.report import Cell, Code, Figure, Mark, Section, Table, Text, Tile, Tiles, write_report
from clipself_d2.vocabulary import Vocabulary

Results = dict[str, dict[str, float]]
TASKS: dict[str, str] = {
    "boxes": "Boxes (dense map)",
    "thing_masks": "Thing masks (dense map)",
    "stuff_masks": "Stuff masks (dense map)",
    "crops": "Crops (image embedding)",
}
_SCENES = 6
_TITLES = ("CLIP", "CLIPSelf")
_RIGHT, _WRONG = (hex_color(color) for color in distinct_colors(3)[::2])  # blue and red


def run_demo(config: str | Path, output_dir: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the shipped CLIP, distill it, evaluate it again, and write results.json, report.html and kmeans.png.

    Args:
        config: a config of CLIPSelf on OV-Shapes.
        output_dir: where the files and the run itself (`run/`) go. An earlier run there is replaced.
        overrides: `key=value` of the config.

    Returns:
        The content of `results.json`: ``before``, ``after`` and ``seconds``.
    """
    output, seconds = Path(output_dir), dict[str, float]()
    run = output / "run"

    @contextmanager
    def timed(name: str, message: str) -> Iterator[None]:
        print(message, flush=True)
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start
        seconds["total"] = sum(value for key, value in seconds.items() if key != "total")

    cfg = load_config(str(config), [*overrides, f"train.output_dir={run}", "train.eval_period=0"])
    cfg.train.device = resolve_device(cfg.train.device)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    setup_logger(str(run), name="clipself_d2", abbrev_name="clipself_d2")
    with timed("data", f"Drawing OV-Shapes ({sum(SPLITS.values()):,} scenes; once)"):
        ensure_ov_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    torch.manual_seed(cfg.train.seed)
    model = instantiate(cfg.model).to(cfg.train.device)
    with timed("evaluate_before", "Evaluating the CLIP as it is"):
        before = evaluate(cfg, model)
    with timed("train_and_evaluate", f"Distilling it ({cfg.train.max_iter} steps), and evaluating it again"):
        after = dict(train(cfg, model, source=str(config)))
    with timed("report", "Writing the report"):
        images = _draw(cfg, model.teacher, build_towers(cfg.clip.name, str(run / "tower.safetensors"))[0])
        images["kmeans"].save(output / "kmeans.png")
        metrics = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
        cosines = [(entry["iteration"], entry["cosine"]) for entry in metrics if "cosine" in entry]
        images["cosine"] = line_chart(cosines, "Cosine of student and teacher", "iteration", "cosine")
    results = {"before": before, "after": after, "seconds": seconds}
    _write_page(output / "report.html", results, images)
    text = json.dumps(results, indent=2) + "\n"
    write_atomically(output / "results.json", lambda file: file.write_text(text))
    numbers = [[label, *_columns(task, before, after)] for task, label in TASKS.items()]
    headers = ["", *(f"top-{k} {moment}" for k in (1, 5) for moment in ("before", "after"))]
    print("OV-Shapes, held-out scenes: mean accuracy over classes, %")
    print(tabulate(numbers, headers, "simple_outline", floatfmt=".1f"))
    print(f"{seconds['total']:.0f} s; open {output / 'report.html'} in a browser")
    return results


@torch.no_grad()
def _draw(cfg: DictConfig, before: ImageTower, after: ImageTower) -> dict[str, Image.Image]:
    """K-Means maps, heat maps of a word, and named boxes of some held-out scenes, by the two towers."""
    device = cfg.train.device
    text: nn.Module = instantiate(cfg.dataloader.evaluator.text)
    words = text(CLASSES).to(device)
    vocabulary = Vocabulary(CLASSES, words)
    samples = [PanopticRegionMapper()(record) for record in get_dataset(cfg.dataloader.test.dataset)[:_SCENES]]
    images = [sample["image"] for sample in samples]
    towers = [before.to(device).eval(), after.to(device).eval()]
    size = cfg.model.student_size
    dense = [dense_features(tower, letterbox_images(tower, images, size)).dense for tower in towers]
    boxes = [sample["boxes"].tensor[sample["isthing"]] for sample in samples]
    names = [
        [probabilities.argmax(dim=1).cpu() for probabilities in classifier.classify_boxes(images, boxes)]
        for classifier in (RegionClassifier(tower, vocabulary, size=size) for tower in towers)
    ]
    return {
        "kmeans": compare_kmeans(images, dict(zip(_TITLES, map(list, dense), strict=True)), clusters=6),
        "words": _word_maps(samples, torch.stack(dense, dim=1), words),
        "boxes": image_grid(
            [[_named_boxes(s, n) for n in of_tower] for s, *of_tower in zip(samples, *names, strict=True)],
            _TITLES,
            width=480,
        ),
    }


def _word_maps(samples: Sequence[dict[str, Any]], maps: Tensor, words: Tensor) -> Image.Image:
    """The scenes, and by each of their maps the cosine of every location with the name of the scene's largest thing."""
    areas = ((sample["masks"] & sample["isthing"][:, None, None]).sum(dim=(1, 2)) for sample in samples)
    largest = torch.stack([sample["classes"][area.argmax()] for sample, area in zip(samples, areas, strict=True)])
    cosines = torch.einsum("sc,stchw->sthw", normalize(words[largest], dim=1), normalize(maps, dim=2)).cpu()
    bar = ColorBar(float(cosines.min()), float(cosines.max()), "cosine")
    rows = []
    for sample, by_tower in zip(samples, cosines, strict=True):
        scene = to_pil_image(sample["image"])
        rows.append([scene, *(draw_heatmap(scene, values, (bar.low, bar.high)) for values in by_tower)])
    return image_grid(rows, ("scene", *_TITLES), bar=bar)


def _named_boxes(sample: dict[str, Any], names: Tensor) -> Image.Image:
    """The scene's things with the names that a tower gives them."""
    things = sample["isthing"]
    colors = [_RIGHT if right else _WRONG for right in names == sample["classes"][things]]
    return draw_boxes(sample["image"], sample["boxes"].tensor[things], [CLASSES[i] for i in names], colors)


def _columns(task: str, before: Results, after: Results) -> list[float]:
    return [results[task][key] for key in ("top1", "top5") for results in (before, after)]


def _change(before: float, after: float) -> Mark:
    return Mark(f"{after - before:+.1f}", "good" if after > before else "bad")


def _write_page(path: Path, results: dict[str, Any], images: dict[str, Image.Image]) -> None:
    before, after, seconds = results["before"], results["after"], results["seconds"]
    rows: list[list[Cell]] = []
    for task, label in TASKS.items():
        top1, new_top1, top5, new_top5 = _columns(task, before, after)
        rows.append([label, top1, new_top1, _change(top1, new_top1), top5, new_top5, _change(top5, new_top5)])
    tiles = Tiles(
        [
            Tile("Boxes, top-1", f"{before['boxes']['top1']:.1f} → {after['boxes']['top1']:.1f} %", "dense map"),
            Tile("Crops, top-1", f"{before['crops']['top1']:.1f} %", "the teacher's embeddings of the same boxes"),
            Tile("Time", f"{seconds['total']:.0f} s", f"{os.cpu_count()} CPU cores, everything"),
        ]
    )
    table = Table(
        ["Regions", "before", "after", "change", "before", "after", "change"],
        rows,
        caption=f"Mean accuracy over classes in percent; all {len(CLASSES)} classes compete. Crops after distillation "
        "are the student's own image embeddings, which CLIPSelf does not train: use the original tower for those.",
        groups=[("", 1), ("top-1", 3), ("top-5", 3)],
    )
    clusters = "Six clusters per image; colors match along a row."
    words = "Cosine of each location with the name of the largest thing in the scene."
    boxes = "Names by the dense map: right ones are blue, wrong ones red."
    sections = [
        Section("Accuracy on held-out scenes", [tiles, table]),
        Section("Training", [Figure(images["cosine"], "Cosine over iterations", 600)]),
        Section("K-Means maps of the dense features", [Text(clusters), Figure(images["kmeans"], "K-Means maps", 800)]),
        Section("Where is the word?", [Text(words), Figure(images["words"], "Heat maps of a word", 800)]),
        Section("What is in the box?", [Text(boxes), Figure(images["boxes"], "Boxes with their names", 980)]),
        Section("Time", [Table(["step", "seconds"], [[name, value] for name, value in seconds.items()])]),
        Section("Run it again", [Code("make demo")]),
    ]
    lead = (
        "A small CLIP, trained on captions of a synthetic world, learns from its own embeddings of image patches to "
        "recognize regions in its dense map: no labels, no text."
    )
    write_report(path, "CLIPSelf on OV-Shapes", sections, lead)
