"""Draw pictures of the documentation into docs/images: all of them, or those that are named.

    python docs/pictures.py [NAME ...]

Most need what ships with the package alone. The others read what commands of the pages write (`COPIES` too):

  clipself.jpg     COCO's val2017/000000423617.jpg and annotations/instances_val2017.json in $DETECTRON2_DATASETS/coco
  region_text.png  output/fvit/region_text.json, by the commands of docs/region_text.md for the miniature
  own_data.png     output/demo, by `make demo`
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from clipself_d2 import RegionClassifier, Vocabulary, build_towers, read_image
from clipself_d2.data import PanopticRegionMapper, get_dataset
from clipself_d2.data.classes import OV_COCO_BASE
from clipself_d2.data.distillation import RegionSampler
from clipself_d2.data.labeled_regions import LabeledRegions
from clipself_d2.engine.config import load_config
from clipself_d2.miniature import CLASSES, CLIPSELF_WEIGHTS, MODEL, TEMPLATES, THINGS, WEIGHTS
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import COLORS, COMPOUNDS, SHAPES, STUFF, Ground, Scene, Thing, is_novel
from clipself_d2.regions import GridRegions, ProposalRegions, crop_and_resize, letterbox, resize_masks
from clipself_d2.visualization.colors import distinct_colors, hex_color
from clipself_d2.visualization.figures import figure_to_image
from clipself_d2.visualization.predictor import Predictor
from clipself_d2.vocabulary import TextClassifier

DOCS = Path(__file__).parent
BLUE, ORANGE, RED, GRAY = (hex_color(color) for color in distinct_colors(4))
CELL = 10  # pixels of a COCO image, 640 wide, below a patch of 16 in the student's 1024
SIZE = 128  # pixels of the miniature's scenes, and of its student


def show(axes: Axes, image: Tensor | np.ndarray, title: str = "") -> None:
    """Show 3 x H x W or H x W values without ticks."""
    axes.imshow(image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=11)


def outline(axes: Axes, box: Sequence[float], text: str, color: str, style: str = "-") -> None:
    """Draw a box, x0 y0 x1 y1, and a text in its upper left corner."""
    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linestyle=style, linewidth=1.8))
    label = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
    axes.text(x0, y0, text, fontsize=8, color="white", va="top", bbox=label, clip_on=True)


def pairs_of_bars(axes: Axes, pairs: Mapping[str, Sequence[float]], ticks: Sequence[str], form: str = "%.0f") -> None:
    """Draw two bars with their values above each tick; `pairs` has the values by meaning."""
    places = np.arange(len(ticks))
    looks = ((-0.2, ORANGE, "//"), (0.2, BLUE, ""))
    for (label, values), (shift, color, hatch) in zip(pairs.items(), looks, strict=True):
        drawn = axes.bar(places + shift, values, 0.38, color=color, hatch=hatch, label=label)
        axes.bar_label(drawn, fmt=form, fontsize=8)
    axes.set_xticks(places, ticks, fontsize=8)
    axes.legend(fontsize=8)


def clipself() -> Figure:
    """What one step of CLIPSelf takes from an image, by both recipes of regions."""
    coco = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "coco"
    image_id = 423617
    image = read_image(coco / f"val2017/{image_id:012d}.jpg")
    content = json.loads((coco / "annotations/instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    boxes = [a for a in content["annotations"] if a["image_id"] == image_id and names[a["category_id"]] in OV_COCO_BASE]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "boxes.json"
        file.write_text(json.dumps({"annotations": [{"image_id": image_id, "bbox": a["bbox"]} for a in boxes]}))
        recipes: dict[str, RegionSampler] = {"patches": GridRegions(), "proposals": ProposalRegions(file)}
    height, width = image.shape[1:]
    figure = Figure(figsize=(10, 6.9), layout="constrained")
    for row, (recipe, sampler) in zip(figure.subfigures(2), recipes.items(), strict=True):
        regions, crops, _ = sampler(image_id, height, width, np.random.default_rng(3))
        left, right = row.subfigures(1, 2)
        axes = left.subplots()
        show(axes, image, f"{recipe}, pooled from the student's dense map")
        axes.vlines(np.arange(0, width, CELL), 0, height, color="white", linewidth=0.25, alpha=0.5)
        axes.hlines(np.arange(0, height, CELL), 0, width, color="white", linewidth=0.25, alpha=0.5)
        for number, region in enumerate(regions.tolist(), 1):
            outline(axes, region, str(number), BLUE)
        axes.set(xlim=(0, width), ylim=(height, 0))
        right.suptitle("what the teacher sees of each", fontsize=11)
        for number, tile in enumerate(right.subplots(-(-len(crops) // 5), 5).flat, 1):
            tile.axis("off")
            if number <= len(crops):
                show(tile, crop_and_resize(image, crops[number - 1 : number], 224)[0].byte())
                outline(tile, (0, 0, 223, 223), str(number), BLUE)
    return figure


def draw_scene(split: str, index: int) -> Tensor:
    """A scene of the miniature, 3 x H x W."""
    return torch.from_numpy(render(scene_of(split, index), SIZE)[0]).permute(2, 0, 1)


def region_classification() -> Figure:
    """The words of boxes before and after CLIPSelf, and whether their colors or their shapes are right."""
    samples = [PanopticRegionMapper()(record) for record in get_dataset("ov_shapes_val_panoptic_regions")[:100]]
    images = [sample["image"] for sample in samples]
    boxes = [sample["boxes"].tensor[sample["isthing"]] for sample in samples]
    truth = [[CLASSES[k] for k in sample["classes"][sample["isthing"]]] for sample in samples]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    scenes, chart = figure.subfigures(1, 2, width_ratios=(2, 1))
    panels, bars = scenes.subplots(2, 2), chart.subplots()
    right = {}
    for column, (title, weights) in enumerate({"before CLIPSelf": WEIGHTS, "after": CLIPSELF_WEIGHTS}.items()):
        tower, text = build_towers(MODEL, weights)
        vocabulary = Vocabulary.from_classes(CLASSES, TextClassifier(text, TEMPLATES), background=None)
        found = RegionClassifier(tower, vocabulary, size=SIZE).classify_boxes(images, boxes)
        named = [[CLASSES[k] for k in probabilities.argmax(dim=1)] for probabilities in found]
        for axes, index in zip(panels[:, column], (2, 7), strict=True):
            show(axes, images[index], title)
            for box, name, true in zip(boxes[index].tolist(), named[index], truth[index], strict=True):
                outline(axes, box, name, BLUE if name == true else RED, "-" if name == true else "--")
        pairs = [(n.split(), t.split()) for pair in zip(named, truth, strict=True) for n, t in zip(*pair, strict=True)]
        same = np.array([[n[0] == t[0], n[-1] == t[-1]] for n, t in pairs])  # color, shape
        right[title] = [100 * share for share in (*same.mean(axis=0), same.all(axis=1).mean())]
    pairs_of_bars(bars, right, ("color", "shape", "both"))
    bars.set(title=f"boxes of {len(samples)} held-out scenes", ylabel="% right", ylim=(0, 116))
    return figure


def mask_resize() -> Figure:
    """A small and a larger mask on the cells of a dense map, by the three ways to resize it."""
    cells, stride = 12, 16
    y, x = np.mgrid[: cells * stride, : cells * stride] + 0.5
    disks = ((100, 104, 25.6), (96, 96, 5))
    masks = torch.from_numpy(np.stack([np.hypot(x - cx, y - cy) < radius for cx, cy, radius in disks]))
    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(2, 4)
    for row, mask in zip(panels, masks, strict=True):
        show(row[0], mask.float().numpy(), f"mask of {mask.sum() / stride**2:.1f} cells")
        for axes, method in zip(row[1:], ("area", "bicubic", "bicubic_antialias"), strict=True):
            weights = resize_masks(mask[None], (cells, cells), method)[0]
            show(axes, weights.numpy(), f"{method}: {weights.sum():.1f}")
    for axes in panels.flat:
        axes.get_images()[0].set_clim(0, 1)
        step = axes.get_images()[0].get_array().shape[0] / cells
        axes.set_xticks(np.arange(cells + 1) * step - 0.5, [])
        axes.set_yticks(np.arange(cells + 1) * step - 0.5, [])
        axes.grid(color="gray", linewidth=0.5)
        axes.tick_params(length=0)
    return figure


def region_text() -> Figure:
    """The nouns that proposals of two scenes are paired with."""
    pairs = LabeledRegions("output/fvit/region_text.json", max_regions=8)
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, index in zip(figure.subplots(1, 2), (4, 11), strict=True):
        show(axes, draw_scene("train", index))
        for box, k in zip(*(each.tolist() for each in pairs(index + 1, SIZE, SIZE)), strict=True):
            outline(axes, box, pairs.names[k], BLUE)
        axes.set_xlabel(caption(index), fontsize=10, wrap=True)
    return figure


def caption(index: int) -> str:
    """Name everything in a training scene."""
    scene = scene_of("train", index)
    names = [*(STUFF[ground.category] for ground in scene.grounds), *(THINGS[t.category] for t in scene.things)]
    return "a " + ", a ".join(names)


@torch.inference_mode()
def image_text() -> Figure:
    """A batch of images and captions, and the cosines that the loss raises and lowers."""
    indices = (0, 3, 8, 12)
    captions = [caption(index) for index in indices]
    tower, text = build_towers(MODEL, WEIGHTS)
    pixels = [draw_scene("train", index) for index in indices]
    images = tower.eval().image_embeddings(tower.normalize(letterbox(pixels, tower.native_size)[0]))
    cosines = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(text(captions), dim=1).T
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    panels = figure.subplots(5, 5)
    panels[0, 0].axis("off")
    for number, (image, words) in enumerate(zip(pixels, captions, strict=True), 1):
        show(panels[number, 0], image)
        panels[0, number].axis("off")
        panels[0, number].text(0.5, 0, words.replace(", ", ",\n"), fontsize=9, ha="center", va="bottom")
        for column in range(1, 5):
            axes, value = panels[number, column], float(cosines[number - 1, column - 1])
            axes.set(xticks=[], yticks=[], facecolor=(BLUE if column == number else GRAY, 0.15 + 0.85 * max(value, 0)))
            axes.text(0.5, 0.5, f"{value:.2f}", fontsize=14, ha="center", va="center", transform=axes.transAxes)
    return figure


def own_data() -> Figure:
    """What distill, eval and predict leave behind: a curve, a table of accuracies, a drawn image."""
    demo = Path("output/demo")
    lines = [json.loads(line) for line in (demo / "run/metrics.json").read_text().splitlines()]
    curve = [(line["iteration"] + 1, line["cosine"]) for line in lines if "cosine" in line]
    results = json.loads((demo / "results.json").read_text())
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    distill, evaluate, predict = figure.subplots(1, 3)
    distill.plot(*zip(*curve, strict=True), color=BLUE)
    distill.set(title="distill", xlabel="iteration", ylabel="cosine of student and teacher")
    tasks = {"boxes": "boxes", "thing_masks": "thing\nmasks", "crops": "crops"}
    top1 = {moment: [results[moment][task]["top1"] for task in tasks] for moment in ("before", "after")}
    pairs_of_bars(evaluate, top1, list(tasks.values()))
    evaluate.set(title="eval", ylabel="mean accuracy over classes, %", ylim=(0, 116))
    image = draw_scene("val", 0)
    show(predict, image, "predict")
    predictor = Predictor(load_config("miniature/detector", ["train.device=cpu"]), [[name] for name in THINGS])
    found = predictor(image)["instances"]
    for box, score, k in zip(found.pred_boxes.tensor.tolist(), found.scores, found.pred_classes.tolist(), strict=True):
        if score >= 0.5:
            color, style = (RED, "-") if is_novel(k) else (BLUE, "--")
            outline(predict, box, f"{THINGS[k]} {score:.2f}", color, style)
    return figure


def miniature() -> Figure:
    """Every thing and ground of OV-Shapes, and which things are novel."""
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    things, grounds = figure.subfigures(2, 1, height_ratios=(8, 1.5))
    panels = things.subplots(len(COLORS), len(SHAPES))
    for number, (color, shape) in enumerate(COMPOUNDS):
        axes = panels[list(COLORS).index(color), SHAPES.index(shape)]
        thing = Thing(number, 0.5, 0.5, 0.4, 0.0, (0.0, 0.0, 0.0), 0.1)
        show(axes, render(Scene((thing,), (Ground(STUFF.index("gravel path"), 1, 1.0),), ()), 56)[0])
        if is_novel(number):
            axes.spines[:].set(color=ORANGE, linewidth=4)
        axes.set_ylabel(color if shape == SHAPES[0] else "", fontsize=11)
        axes.set_title(shape if color == "red" else "", fontsize=11)
    for axes, name in zip(grounds.subplots(1, len(STUFF)), STUFF, strict=True):
        show(axes, render(Scene((), (Ground(STUFF.index(name), 1, 1.0),), ()), 80)[0], name)
    return figure


def scaling() -> Figure:
    """The tables of docs/scaling.md: time of a step, memory, and hours of whole runs."""
    figure = Figure(figsize=(11, 3.8), dpi=130, layout="constrained")
    seconds, memory, hours = figure.subplots(1, 3)
    rows = table("scaling.md", "| command | what |")
    names = ["step,\n640 px", "cached", "step,\n1024 px", "cached", "crops", "region\nacc.", "pan-\noptic"]
    columns = {"released recipe": 2, "this package": 3}
    pairs_of_bars(seconds, {k: [float(row[n].split()[0]) for row in rows] for k, n in columns.items()}, names, "%.1f")
    seconds.set(title="seconds per image, B/16, two cores", yscale="log", ylim=(0.3, 200))
    rows = table("scaling.md", "| | pixels | s | GiB |")
    for name, color, marker in (("EVA02-B-16", BLUE, "o"), ("EVA02-L-14-336", ORANGE, "s")):
        own = [row for row in rows if row[0] == name]
        for column, style, how in ((3, "-", ""), (5, "--", ", checkpointing")):
            points = [(int(row[1]), float(row[column])) for row in own]
            memory.plot(*zip(*points, strict=True), style, color=color, marker=marker, label=name + how)
    memory.set(title="GiB of a step with one image", xlabel="student, pixels", ylim=(0, 13))
    memory.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.56))
    rows = table("scaling.md", "| run | operations |")
    columns = {"1 GPU": 3, "8 GPUs": 4}
    names = [row[0].replace(", ", "\n") for row in rows]
    pairs_of_bars(hours, {k: [float(row[n]) for row in rows] for k, n in columns.items()}, names, "%.1f")
    hours.set(title="hours of a run on H200s, estimated")
    return figure


def table(page: str, header: str) -> list[list[str]]:
    """The cells of a page's table whose header starts so, row by row."""
    lines = (DOCS / page).read_text().partition(header)[2].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in takewhile(str.strip, lines)]


PICTURES: dict[str, Callable[[], Figure]] = {
    "clipself.jpg": clipself,
    "image_text.png": image_text,
    "mask_resize.png": mask_resize,
    "miniature.png": miniature,
    "own_data.png": own_data,
    "region_classification.png": region_classification,
    "region_text.png": region_text,
    "scaling.png": scaling,
}


COPIES = {
    "detections.png": "output/reproduce/3a-miniature/detections.png",
    "kmeans.png": "output/demo/kmeans.png",
    "semantic.png": "output/reproduce/5-miniature/segmentations.png",
}
"""What other commands draw, made small."""


def main(names: Sequence[str]) -> None:
    """Write the pictures of these names, or all."""
    for name in names or [*PICTURES, *COPIES]:
        image = figure_to_image(PICTURES[name]()) if name in PICTURES else Image.open(COPIES[name]).convert("RGB")
        file = DOCS / "images" / name
        if file.suffix == ".png":
            image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
        image.save(file, optimize=True, quality=74)
        print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
