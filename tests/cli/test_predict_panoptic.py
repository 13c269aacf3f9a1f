"""`clipself predict` with a panoptic segmenter: every pixel of a user's images gets one of the user's words."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from clipself_d2.data import read_image
from clipself_d2.engine.config import load_config
from clipself_d2.panoptic import MaskPredictions
from clipself_d2.visualization.predictor import Predictor
from tests.cli.images import COLORS, make_world, results, run, write_images

ROOT = Path(__file__).parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from clipself_d2.panoptic import OpenVocabularyPanoptic, dataset_things, panoptic_vocabulary
from tests.panoptic.color_tower import ColorTower
from tests.cli.test_predict_panoptic import ColorMasks, color_text

model = L(OpenVocabularyPanoptic)(
    generator=L(ColorMasks)(), tower=L(ColorTower)(), size=64, alpha=1.0, beta=1.0,
    vocabulary=L(panoptic_vocabulary)(dataset="toy_segments", text=L(color_text)()),
    isthing=L(dataset_things)(dataset="toy_segments"),
)
dataloader = dict(test=dict(num_workers=0))
optimizer = dict()
lr_multiplier = dict()
train = dict(device="cpu", output_dir="run")
"""


class ColorMasks:
    """A mask for each color in the image that is not black."""

    def __call__(self, inputs, vocabulary):
        return [self.find(x["image"], len(vocabulary)) for x in inputs]

    @staticmethod
    def find(image, count):
        found = [c for c in image.flatten(1).unique(dim=1).T if c.any()]
        masks = [(image == color[:, None, None]).all(dim=0) for color in found]
        scores = torch.full((len(masks), count + 1), 0.9 / count)
        scores[:, -1] = 0.1
        stacked = torch.stack(masks) if masks else torch.zeros(0, *image.shape[1:])
        return MaskPredictions((stacked.float() - 0.5) * 20, scores.log())


def color_text():
    def embed(classes):
        names = [names if isinstance(names, str) else names[0] for names in classes]
        return torch.tensor([COLORS[name] for name in names], dtype=torch.float32)

    return embed


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Images, and a data set in which green is stuff and blue is novel."""
    make_world(
        tmp_path,
        monkeypatch,
        CONFIG,
        "toy_segments",
        stuff_classes=["red", "green", "blue"],
        class_synonyms=[["red", "Scarlet"], ["green"], ["blue"]],
        thing_dataset_id_to_contiguous_id={1: 0, 3: 2},
        novel_classes=["blue"],
    )
    write_images(tmp_path / "images")
    return tmp_path


def test_every_input_gets_an_overlay_and_a_json(world, capsys):
    assert run() == 0
    assert {path.name for path in Path("out").iterdir()} == {"0042.jpg", "0042.json", "video.gif", "video.json"}
    first, second = results("0042")
    assert (first["name"], first["isthing"], first["is_base"], first["area"]) == ("scarlet", True, True, 48 * 32)
    assert (second["name"], second["isthing"], second["is_base"], second["area"]) == ("green", False, True, 24 * 32)
    assert first["image_id"] == second["image_id"] == 42
    mask = coco_mask.decode(first["segmentation"])
    assert mask[:, :32].all() and not mask[:, 32:].any()
    frames = {(r["image_id"], r["name"], r["is_base"]) for r in results("video")}
    assert frames == {(0, "blue", False), (0, "green", True), (1, "scarlet", True), (1, "blue", False)}
    with Image.open("out/0042.jpg") as image:
        assert image.size == (640, 480)
    *table, last = capsys.readouterr().out.splitlines()
    assert [line.split("│")[1:4] for line in table if "blue" in line][-1] == [" blue    ", "       2 ", "           2 "]
    assert last == "written to out"


def test_stuff_and_novel_words_can_be_named(world):
    assert run("--stuff", "scarlet", "--novel", "green", sources=["images/0042.png"]) == 0
    assert [(r["name"], r["isthing"], r["is_base"]) for r in results("0042")] == [
        ("scarlet", False, True),
        ("green", True, False),
    ]


def test_segments_below_the_threshold_are_left_out(world):
    assert run("--threshold", "0.95", sources=["images/0042.png"]) == 0
    assert results("0042") == []


def test_a_predictor_takes_other_words(world):
    """It then finds what one finds that was made with them: names, stuff and what is novel."""

    def found(predictor):
        _, segments = predictor(read_image("images/0042.png"))["panoptic_seg"]
        return [(predictor.names[s["category_id"]], s["isthing"], s["score"]) for s in segments], predictor.is_base

    other = [("green",), ("blue",), ("red",)]
    predictor = Predictor(load_config("config.py", []), [("scarlet",)])
    assert {name for name, *_ in found(predictor)[0]} == {"scarlet"}
    predictor.set_words(other)
    assert found(predictor) == found(Predictor(load_config("config.py", []), other))
    assert {(name, isthing) for name, isthing, _ in found(predictor)[0]} == {("red", True), ("green", False)}
    assert predictor.is_base == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stuff", "dog"], "stuff 'dog' is not among the words"),
        (["--words", ""], "the vocabulary is empty"),
        (["--config-file", str(ROOT / "configs/distillation/clipself_eva02_b16_coco_patches.py")], "configs/panoptic"),
        (["--weights", "absent.pth"], "absent.pth"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(world, capsys, arguments, message):
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
