"""What ships answers at once: novel things are found and segmented, and heat maps are brightest on them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from clipself_d2 import miniature
from clipself_d2.cli import heatmap, predict
from clipself_d2.clip import build_towers
from clipself_d2.data import read_image
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render
from clipself_d2.miniature.world import CLASSES, THINGS, is_novel
from clipself_d2.visualization.heatmaps import word_maps
from clipself_d2.vocabulary import TextClassifier, Vocabulary

SCENES = 10


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of held-out scenes, and per scene the novel things of some size: name and mask."""
    folder, novel = tmp_path_factory.mktemp("scenes"), []
    for number in range(SCENES):
        scene = scene_of("val", number)
        pixels, segments = render(scene, 128)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        novel.append([])
        for j, thing in enumerate(scene.things):
            mask = segments == len(scene.grounds) + j
            if is_novel(thing.category) and mask.sum() > 100:
                novel[-1].append((THINGS[thing.category], mask))
    return folder, novel


def box_of(mask):
    rows, columns = mask.nonzero()
    return [float(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def found(folder, words, *arguments):
    """The records of each scene."""
    assert predict.main([str(folder), "--words", ", ".join(words), *arguments, "train.device=cpu"]) == 0
    return [json.loads(Path(f"output/predict/{number}.json").read_text()) for number in range(SCENES)]


def test_the_detector_finds_what_it_never_trained_on(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, novel = scenes
    hits = []
    for things, records in zip(novel, found(folder, THINGS), strict=True):
        for name, mask in things:
            [(x, y, w, h)] = [r["bbox"] for r in records if r["name"] == name][:1] or [(0, 0, 0, 0)]
            hits.append(float(box_iou(torch.tensor([[x, y, x + w, y + h]]), torch.tensor([box_of(mask)]))) > 0.5)
    assert len(hits) >= 5 and np.mean(hits) > 0.4  # AP50 of novel classes is 42


@pytest.mark.parametrize("config", ["miniature/panoptic_segmenter", "miniature/semantic_segmenter"])
def test_the_segmenters_name_what_they_never_trained_on(scenes, tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    folder, novel = scenes
    ious = []
    for things, records in zip(novel, found(folder, CLASSES, "--config-file", config), strict=True):
        for name, mask in things:
            masks = [coco_mask.decode(r["segmentation"]).astype(bool) for r in records if r["name"] == name]
            ious.append(max((np.sum(m & mask) / np.sum(m | mask) for m in masks), default=0))
    assert len(ious) >= 5 and np.mean(ious) > 0.3


def test_heat_maps_are_brightest_on_the_thing(scenes):
    folder, novel = scenes
    tower, text = build_towers(miniature.MODEL, miniature.CLIPSELF_WEIGHTS)
    inside = []
    for number, things in enumerate(novel):
        for name, mask in things:
            x0, y0, x1, y1 = box_of(mask)
            vocabulary = Vocabulary([name], TextClassifier(text, list(miniature.TEMPLATES))([name]))
            maps, extent = word_maps(tower.eval(), vocabulary, read_image(folder / f"{number}.png"), 128)
            assert maps.shape == (1, 16, 16) and extent == (16, 16)
            row, column = np.unravel_index(int(maps[0].argmax()), (16, 16))
            inside.append(y0 - 8 <= 8 * row + 4 <= y1 + 8 and x0 - 8 <= 8 * column + 4 <= x1 + 8)
    assert np.mean(inside) > 0.6


def test_heatmap_draws_a_column_per_word(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 60), "red").save("wide.png")
    assert heatmap.main(["wide.png", str(scenes[0] / "0.png"), "--words", "red star, lawn/grass"]) == 0
    assert capsys.readouterr().out.endswith("written to output/heatmap\n")
    [wide] = Path("output/heatmap").rglob("wide.png")
    with Image.open(wide) as image:
        assert image.width > 3 * 256 and image.height < 256


def test_heatmap_takes_the_images_of_a_folder(tmp_path, monkeypatch, capsys, caplog):
    """Turned, gray with transparency, of 16 bits, in a folder with a space; no video, and a broken one is skipped."""
    monkeypatch.chdir(tmp_path)
    Path("my photos").mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 90), "red").save("my photos/turned.jpg", exif=exif)
    Image.new("LA", (90, 60), (90, 30)).save("my photos/gray.webp")
    Image.fromarray(np.full((60, 90), 40_000, dtype=np.uint16)).save("my photos/levels.png")
    Path("my photos/bad.jpg").write_text("no image")
    Path("my photos/video.mp4").touch()
    assert heatmap.main(["my photos", "--words", "red star", "--output", "out"]) == 0
    sizes = set()
    for file in Path("out").iterdir():
        with Image.open(file) as image:
            sizes.add(image.size)
    assert len(list(Path("out").iterdir())) == 3 and len(sizes) == 1  # the turned one is as wide as the others
    assert "1 of 4 images could not be read" in capsys.readouterr().out and "Skipped: my photos/bad.jpg" in caplog.text


def test_heatmap_compares_with_the_clip_before(tmp_path, monkeypatch):
    """A row more; in a vector format for papers; random weights where they are asked for."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 60), "red").save("wide.png")
    fixed = ["wide.png", "--words", "red star", "--output", "out"]
    heights = []
    for more in ([], ["--compare"], ["--clip", miniature.MODEL, "--pretrained", "null", "--compare", "null"]):
        assert heatmap.main([*fixed, *more]) == 0
        with Image.open("out/wide.png") as image:
            heights.append(image.height)
    assert heights[0] + 128 + 8 == heights[1] == heights[2]
    for form, start in (("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert heatmap.main([*fixed, "--format", form]) == 0
        assert Path(f"out/wide.{form}").read_bytes().startswith(start)
    assert re.search(r">\s*red star\s*</text>", Path("out/wide.svg").read_text())  # a text, no outlines of letters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.png", "--words", "cat"], "absent.png: there is no such file"),
        (["a.png", "--words", "absent.txt"], "absent.txt: there is no such file of classes"),
        (["a.png", "--words", "cat", "--clip", "ViT-B-16"], "--clip and --pretrained belong together"),
        (["a.png", "--words", "cat", "--compare", "openai"], "--compare: with --clip, give the weights of that CLIP"),
        (["a.png", "--words", "cat", "--clip", "X", "--pretrained", "y", "--compare"], "--compare: with --clip, give"),
        (["a.png", "--words", "cat", "--size", "100"], "--size=100: not a multiple of the tower's stride 8"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    assert heatmap.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
