"""The demonstration's semantic task: every pixel of own pictures gets the best of the user's words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.tools.loading import main_of
from tests.tools.pictures import results, run, write_photos

ROOT = Path(__file__).parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from clipself_d2.data.vocabulary import panoptic_vocabulary
from clipself_d2.semantic import ZeroShotSegmenter
from tests.panoptic.colour_tower import ColourTower
from tests.tools.test_demo_panoptic import colour_text

model = L(ZeroShotSegmenter)(
    tower=L(ColourTower)(), size=64, temperature=20.0, background_threshold=0.0,
    vocabulary=L(panoptic_vocabulary)(dataset="absent", text=L(colour_text)()),
)
dataloader = dict()
optimizer = dict()
lr_multiplier = dict()
train = dict(device="cpu", output_dir="run")
"""


main = main_of("demo")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The config and the pictures in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    write_photos(tmp_path / "photos")
    return tmp_path


def test_every_input_gets_an_overlay_and_a_json(main, world, capsys):
    assert run(main, "semantic") == 0
    assert {path.name for path in Path("out").iterdir()} == {"0042.jpg", "0042.json", "film.gif", "film.json"}
    listed = results("0042")
    assert {r["image_id"] for r in listed} == {42} and sum(r["area"] for r in listed) == 48 * 64
    assert [r["area"] for r in listed] == sorted((r["area"] for r in listed), reverse=True)
    masks = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in listed}
    for r in listed:
        assert masks[r["name"]].sum() == r["area"] and 1 / 3 < r["score"] <= 1
    # cells of 8 pixels, bilinearly in between: certain but at the borders
    assert masks["scarlet"][:, :28].all() and masks["green"][:20, 36:].all()
    assert {r["image_id"] for r in results("film")} == {0, 1}
    with Image.open("out/0042.jpg") as image:  # enlarged, with a legend below
        assert image.width == 640 and image.height > 480
    assert "in 2 of 2 inputs; see out" in capsys.readouterr().out


def test_a_word_has_one_colour_in_all_pictures(main, world):
    assert run(main, "semantic", "--threshold", "0.9") == 0
    with Image.open("out/film.gif") as film:
        first = np.asarray(film.convert("RGB"), dtype=int)
        film.seek(1)
        second = np.asarray(film.convert("RGB"), dtype=int)
    blue_left, blue_right = first[200, 100], second[50, 500]
    assert abs(blue_left - blue_right).max() < 12


def test_pixels_below_the_threshold_have_no_word(main, world):
    """Black is as near to all three words: its score is a third."""
    assert run(main, "semantic", "--threshold", "0.9", sources=["photos/0042.png"]) == 0
    masks = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in results("0042")}
    assert set(masks) == {"scarlet", "green"}
    assert not any(mask[28:, 36:].any() for mask in masks.values()) and masks["scarlet"][:, :28].all()
    assert run(main, "semantic", "model.background_threshold=0.9", sources=["photos/0042.png"]) == 0
    again = {r["name"]: coco_mask.decode(r["segmentation"]).astype(bool) for r in results("0042")}
    assert all((again[name] == mask).all() for name, mask in masks.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stuff", "green"], "--stuff and --novel are for other tasks"),
        (["--novel", "green"], "--stuff and --novel are for other tasks"),
        (["--vocabulary", ""], "the vocabulary is empty"),
        (["--config-file", str(ROOT / "configs/detection/fvit_openai_b16_ovcoco.py")], "use one of configs/semantic"),
        (["--weights", "absent.pth"], "absent.pth"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(main, world, capsys, arguments, message):
    assert run(main, "semantic", *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_cat_seg_looks_for_the_users_words(main, tmp_path, monkeypatch):
    """The miniature's config with random weights: the classes of its data sets are not embedded."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("a.png")
    config = str(ROOT / "configs/miniature/cat_seg.py")
    arguments = ["--task", "semantic", "--input", "a.png", "--config-file", config, "--weights", "random"]
    assert main([*arguments, "--vocabulary", "red star/ruby star, lawn", "--output", "out", "train.device=cpu"]) == 0
    listed = results("a")
    assert {r["name"] for r in listed} <= {"red star", "lawn"} and sum(r["area"] for r in listed) == 40 * 60
