"""Pictures of plain colours for the demonstration's segmenters, and how their tests call it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (255, 0, 0), "scarlet": (250, 20, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(left: str, right: str) -> Image.Image:
    """A colour on the left, another above on the right, black below."""
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32], pixels[:24, 32:] = COLOURS[left], COLOURS[right]
    return Image.fromarray(pixels)


def write_photos(folder: Path) -> None:
    """A picture with a number for a name, and a film."""
    folder.mkdir()
    picture("red", "green").save(folder / "0042.png")
    picture("blue", "green").save(folder / "film.gif", save_all=True, append_images=[picture("red", "blue")])


def run(main, task, *arguments, words="scarlet, green, blue", sources=("photos",)) -> int:
    """The demonstration of `config.py` on pictures of the working directory; results go to `out`."""
    fixed = ["--vocabulary", words, "--config-file", "config.py", "--output", "out", "--task", task]
    return main(["--input", *sources, *fixed, *arguments])


def results(name: str) -> list:
    """What was written of a picture."""
    return json.loads(Path("out", f"{name}.json").read_text())
