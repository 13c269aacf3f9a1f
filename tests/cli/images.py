"""Images of plain colors for `clipself predict`, and how its tests call it."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import clipself_d2.miniature  # noqa: F401  (registers its data sets, which tests replace for a while)
from clipself_d2.cli.predict import main

COLORS = {"red": (255, 0, 0), "scarlet": (250, 20, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def halves(left: str, right: str) -> Image.Image:
    """A color on the left, another above on the right, black below."""
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32], pixels[:24, 32:] = COLORS[left], COLORS[right]
    return Image.fromarray(pixels)


def write_images(folder: Path) -> None:
    """An image with a number for a name, and an animation."""
    folder.mkdir()
    halves("red", "green").save(folder / "0042.png")
    halves("blue", "green").save(folder / "video.gif", save_all=True, append_images=[halves("red", "blue")])


def make_world(folder: Path, monkeypatch, config: str, dataset: str, **metadata) -> None:
    """Work in a folder with `config.py`, beside a registered data set without images."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    DatasetCatalog.register(dataset, lambda: [])
    MetadataCatalog.get(dataset).set(**metadata)
    (folder / "config.py").write_text(config)


def run(*arguments, words="scarlet, green, blue", sources=("images",)) -> int:
    """Predict with `config.py` on images of the working directory; results go to `out`."""
    fixed = ["--words", words, "--config-file", "config.py", "--output", "out"]
    return main([*sources, *fixed, *arguments])


def results(name: str) -> list:
    """The records of an input."""
    return json.loads(Path("out", f"{name}.json").read_text())
