"""`clipself predict` with a semantic segmenter: every pixel of a user's images gets the best of the user's words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.cli.images import make_world, results, run, write_images

ROOT = Path(__file__).parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from clipself_d2.data.vocabulary import panoptic_vocabulary
from clipself_d2.semantic import ZeroShotSegmenter
from tests.panoptic.color_tower import ColorTower
from tests.cli.test_predict_panoptic import color_text

model = L(ZeroShotSegmenter)(
    tower=L(ColorTower)(), size=64, temperature=20.0, background_threshold=0.0,
    vocabulary=L(panoptic_vocabulary)(dataset="toy_semantic", text=L(color_text)()),
)
dataloader = dict(test=dict(num_workers=0))
optimizer = dict()
lr_multiplier = dict()
train = dict(device="cpu", output_dir="run")
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The config and the images in the working directory."""
    make_world(tmp_path, monkeypatch, CONFIG, "toy_semantic", stuff_classes=["red", "green"], novel_classes=["green"])
    write_images(tmp_path / "images")
    return tmp_path


def test_every_input_gets_an_overlay_and_a_json(world, capsys):
    assert run() == 0
    assert {path.name for path in Path("out").iterdir()} == {"0042.jpg", "0042.json", "video.gif", "video.json"}
    listed = results("0042")
    assert {r["image_id"] for r in listed} == {42} and sum(r["area"] for r in listed) == 48 * 64
    assert [r["area"] for r in listed] == sorted((r["area"] for r in listed), reverse=True)
    masks = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in listed}
    for r in listed:
        assert masks[r["name"]].sum() == r["area"] and 1 / 3 < r["score"] <= 1
    # cells of 8 pixels, bilinearly in between: certain but at the borders
    assert masks["scarlet"][:, :28].all() and masks["green"][:20, 36:].all()
    assert {r["image_id"] for r in results("video")} == {0, 1}
    with Image.open("out/0042.jpg") as image:
        assert image.size == (640, 480)
    assert capsys.readouterr().out.endswith("written to out\n")


def test_a_word_has_one_color_in_all_images(world):
    assert run("--threshold", "0.9") == 0
    with Image.open("out/video.gif") as video:
        first = np.asarray(video.convert("RGB"), dtype=int)
        video.seek(1)
        second = np.asarray(video.convert("RGB"), dtype=int)
    blue_left, blue_right = first[200, 100], second[50, 500]
    assert abs(blue_left - blue_right).max() < 12


def test_pixels_below_the_threshold_have_no_word(world):
    """Black is as near to all three words: its score is a third."""
    assert run("--threshold", "0.9", sources=["images/0042.png"]) == 0
    masks = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in results("0042")}
    assert set(masks) == {"scarlet", "green"} and not any(r["is_base"] for r in results("0042"))
    assert not any(mask[28:, 36:].any() for mask in masks.values()) and masks["scarlet"][:, :28].all()
    assert run("model.background_threshold=0.9", sources=["images/0042.png"]) == 0
    again = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in results("0042")}
    assert all((again[name] == mask).all() for name, mask in masks.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stuff", "green"], "--stuff is for configs/panoptic"),
        (["--words", ""], "the vocabulary is empty"),
        (["--weights", "absent.pth"], "absent.pth"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(world, capsys, arguments, message):
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
