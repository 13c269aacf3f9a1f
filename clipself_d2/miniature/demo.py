"""The demonstration: CLIPSelf on OV-Shapes in a few minutes, told as a table and an HTML page."""

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
from rich.console import Console
from rich.table import Table as RichTable
from torch import Tensor

from clipself_d2.clip import build_towers
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import PanopticRegionMapper, get_dataset
from clipself_d2.engine.config import load_config
from clipself_d2.engine.evaluate import evaluate
from clipself_d2.engine.inference import resolve_device
from clipself_d2.engine.run import train
from clipself_d2.miniature.dataset import SPLITS, ensure_ov_shapes
from clipself_d2.miniature.world import CLASSES
from clipself_d2.regions import RegionClassifier, letterbox
from clipself_d2.visualization import (
    Code,
    Curve,
    Figure,
    Mark,
    Picture,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    compare_kmeans,
    draw_boxes,
    draw_heatmap,
    similarity,
    to_pil,
    upscale,
    write_report,
)
from clipself_d2.vocabulary import TextClassifier

Results = dict[str, dict[str, float]]
TASKS: dict[str, str] = {
    "boxes": "Boxes (dense map)",
    "thing_masks": "Thing masks (dense map)",
    "stuff_masks": "Stuff masks (dense map)",
    "crops": "Crops (image embedding)",
}
PICTURES = 6


class Demo:
    """Evaluates the shipped CLIP, distils it, evaluates again, and shows both.

    Args:
        config: path of a config of CLIPSelf on OV-Shapes.
        output_dir: where `results.json`, `report.html`, the pictures and the run itself (`run/`) go. An earlier run
            there is replaced.
        overrides: `key=value` of the config.
    """

    def __init__(self, config: str | Path, output_dir: str | Path, overrides: Sequence[str] = ()) -> None:
        self.output_dir = Path(output_dir)
        self.run_dir = self.output_dir / "run"
        self.config = str(config)
        self.cfg = load_config(self.config, [*overrides, f"train.output_dir={self.run_dir}", "train.eval_period=0"])
        self.cfg.train.device = resolve_device(self.cfg.train.device)
        self.seconds: dict[str, float] = {}
        self.console = Console()

    def run(self) -> dict[str, Any]:
        """Runs everything; returns what `results.json` holds: `{"before", "after", "seconds"}`."""
        start = time.perf_counter()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        setup_logger(str(self.run_dir), name="clipself_d2", abbrev_name="clipself_d2")
        with self._timed("data", f"Drawing OV-Shapes ({sum(SPLITS.values()):,} scenes; once)"):
            ensure_ov_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets"))
        torch.manual_seed(self.cfg.train.seed)
        model = instantiate(self.cfg.model).to(self.cfg.train.device)
        with self._timed("evaluate_before", "Measuring the CLIP as it is"):
            before = evaluate(self.cfg, model)
        with self._timed("train_and_evaluate", f"Distilling it ({self.cfg.train.max_iter} steps), and measuring again"):
            after = dict(train(self.cfg, model, source=self.config))
        with self._timed("report", "Drawing the report"):
            pictures = self._pictures(model.teacher, self._exported_tower())
            self.seconds["total"] = time.perf_counter() - start
            results = {"before": before, "after": after, "seconds": self.seconds}
            self._report(results, pictures)
        self.seconds["total"] = time.perf_counter() - start
        text = json.dumps(results, indent=2) + "\n"
        write_atomically(self.output_dir / "results.json", lambda file: file.write_text(text))
        self._print(before, after)
        return results

    @contextmanager
    def _timed(self, name: str, message: str) -> Iterator[None]:
        self.console.print(f"[bold]{message}[/bold]")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def _exported_tower(self) -> ImageTower:
        tower = build_towers(self.cfg.clip.name, str(self.run_dir / "tower.safetensors"))[0]
        return tower.to(self.cfg.train.device)

    def _print(self, before: Results, after: Results) -> None:
        table = RichTable(title="OV-Shapes, held-out scenes: mean accuracy over classes, %")
        for column in ("", "top-1 before", "top-1 after", "top-5 before", "top-5 after"):
            table.add_column(column, justify="left" if not column else "right")
        for task, label in TASKS.items():
            figures = (results[task][key] for key in ("top1", "top5") for results in (before, after))
            table.add_row(label, *(f"{figure:.1f}" for figure in figures))
        self.console.print(table)
        self.console.print(f"{self.seconds['total']:.0f} s; open {self.output_dir / 'report.html'} in a browser")

    @torch.no_grad()
    def _pictures(self, before: ImageTower, after: ImageTower) -> dict[str, list[Picture]]:
        """K-Means maps, word maps and named boxes of some held-out scenes, by the two towers."""
        text = TextClassifier(build_towers(self.cfg.clip.name, self.cfg.clip.pretrained)[1], _templates(self.cfg))
        words = text(CLASSES).to(self.cfg.train.device)
        mapper = PanopticRegionMapper()
        samples = [mapper(record) for record in get_dataset(self.cfg.dataloader.test.dataset)[:PICTURES]]
        images = [sample["image"] for sample in samples]
        size = self.cfg.model.student_size
        towers = [before.eval(), after.eval()]
        maps = [tower.dense_embeddings(tower.normalize(letterbox(images, size)[0])) for tower in towers]
        kmeans = compare_kmeans(images, list(maps[0]), list(maps[1]), clusters=6)
        kmeans.save(self.output_dir / "kmeans.png")
        pictures: dict[str, list[Picture]] = {"kmeans": [Picture(kmeans, alt="K-Means maps before and after")]}
        pictures["words"] = [p for s, *m in zip(samples, *maps, strict=True) for p in _word_maps(s, m, words)]
        named = [RegionClassifier(tower, words, size=size).classify_boxes for tower in towers]
        boxes = [sample["boxes"].tensor[sample["isthing"]] for sample in samples]
        guesses = [classify(images, boxes) for classify in named]
        pictures["boxes"] = [p for s, *g in zip(samples, *guesses, strict=True) for p in _named_boxes(s, g)]
        return pictures

    def _report(self, results: dict[str, Any], pictures: dict[str, list[Picture]]) -> None:
        before, after = results["before"], results["after"]
        rows = []
        for task, label in TASKS.items():
            cells: list[Any] = [label]
            for key in ("top1", "top5"):
                change = after[task][key] - before[task][key]
                cells += [before[task][key], after[task][key], Mark(f"{change:+.1f}", "good" if change > 0 else "bad")]
            rows.append(cells)
        crops = before["crops"]["top1"]
        tiles = [
            Tile("Boxes, top-1", f"{before['boxes']['top1']:.1f} → {after['boxes']['top1']:.1f} %", "dense map"),
            Tile("Crops, top-1", f"{crops:.1f} %", "the teacher's own embeddings of the same boxes"),
            Tile("Time", f"{results['seconds']['total']:.0f} s", f"{os.cpu_count()} CPU cores, everything"),
        ]
        curve = [json.loads(line) for line in (self.run_dir / "metrics.json").read_text().splitlines()]
        points = [(c["iteration"], c["cosine"]) for c in curve if "cosine" in c]
        headings = ("CLIP", "CLIPSelf")
        write_report(
            self.output_dir / "report.html",
            "CLIPSelf on OV-Shapes",
            [
                Section(
                    "Accuracy on held-out scenes",
                    [
                        Tiles(tiles),
                        Table(
                            ["Regions", "before", "after", "change", "before", "after", "change"],
                            rows,
                            caption=f"Mean accuracy over classes, per cent; all {len(CLASSES)} classes compete. "
                            "Crops after distillation are the student's own image embeddings, which CLIPSelf does "
                            "not train: use the original tower for those.",
                            groups=[("", 1), ("top-1", 3), ("top-5", 3)],
                        ),
                    ],
                ),
                Section("Training", [Curve("Cosine of student and teacher", {"cosine": points})]),
                Section(
                    "K-Means maps of the dense features",
                    [
                        Text("Six clusters an image; colours match along a row."),
                        Figure(pictures["kmeans"], columns=1, width=800),
                    ],
                ),
                Section(
                    "Where is the word?",
                    [
                        Text("Cosine of each location with the name of one thing in the scene."),
                        Figure(pictures["words"], columns=3, headings=("scene", *headings), width=220),
                    ],
                ),
                Section(
                    "What is in the box?",
                    [
                        Text("Names by the dense map; right ones are green, wrong ones red."),
                        Figure(pictures["boxes"], columns=2, headings=headings, width=400),
                    ],
                ),
                Section("Time", [Table(["step", "seconds"], [[k, v] for k, v in results["seconds"].items()])]),
                Section("Do it again", [Code("make demo")]),
            ],
            lead="A small CLIP, trained on captions of a synthetic world, learns from its own embeddings of image "
            "patches to recognise regions in its dense map: no labels, no text.",
        )


def _templates(cfg: Any) -> list[str]:
    return list(cfg.dataloader.evaluator.text.templates)


def _word_maps(sample: dict[str, Any], maps: Sequence[Tensor], words: Tensor) -> list[Picture]:
    """The scene, and for each map the cosine with the scene's largest thing."""
    things = sample["classes"][sample["isthing"]]
    largest = int(sample["masks"][sample["isthing"]].flatten(1).sum(dim=1).argmax())
    word = int(things[largest])
    scene = upscale(to_pil(sample["image"]), 256)
    heat = [draw_heatmap(scene, similarity(dense, words[word][None])[0]) for dense in maps]
    return [Picture(scene, [CLASSES[word]]), *(Picture(h, alt=f"where {CLASSES[word]} is") for h in heat)]


def _named_boxes(sample: dict[str, Any], guesses: Sequence[Tensor]) -> list[Picture]:
    """The scene's boxes with each tower's names for them."""
    truth = sample["classes"][sample["isthing"]]
    boxes = sample["boxes"].tensor[sample["isthing"]]
    pictures = []
    for probabilities in guesses:
        names = probabilities.argmax(dim=1).cpu()
        palette = [(40, 200, 80) if right else (230, 60, 50) for right in (names == truth).tolist()]
        scene = upscale(to_pil(sample["image"]), 512)
        labels = [CLASSES[i] for i in names.tolist()]
        pictures.append(Picture(draw_boxes(scene, boxes, labels, palette, scale=4.0)))
    return pictures
