"""What docs/semantic.md says of segmentation by text alone is true: its code runs."""

import re
from pathlib import Path

from PIL import Image

from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render
from clipself_d2.semantic import ZeroShotSegmenter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/semantic.md").read_text()


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)[1]


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(scene_of("val", 0), 96)[0]).save("image.png")
    names = {"name": MODEL, "pretrained": WEIGHTS, "size": 128}
    for block in blocks("python", section("By text alone")):
        exec(block, names)
    assert names["labels"].shape == (96, 96)
    assert -1 <= names["labels"].min() <= names["labels"].max() <= 2
    assert names["scores"].shape == (1, 3)


def test_every_argument_is_explained():
    text = section("By text alone")
    for name in ZeroShotSegmenter.__init__.__kwdefaults__:
        assert name in text
