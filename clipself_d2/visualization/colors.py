"""Colors of classes, label maps and heat maps."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import matplotlib
import numpy as np
from matplotlib.colors import CSS4_COLORS, hsv_to_rgb, to_rgb
from PIL import Image
from torch import Tensor

Color = tuple[int, int, int]
"""RGB, 0..255."""

HEAT = "inferno"
"""Matplotlib's colors of heat maps."""


# Told apart by color-blind people too (M. A. Petroff, Accessible Color Sequences for Data Visualization, 2021).
_SAFE = "3f90da ffa90e bd1f01 94a4a2 832db6 a96b59 e76300 b9ac70 717581 92dadd"
_SHIFTS = (0, 0.3, -0.3, 0.5, -0.5)  # of a shade, towards white, or below 0 towards black


def distinct_colors(count: int) -> list[Color]:
    """Return `count` RGB colors: ten that color-blind people tell apart, lighter shades, hues a golden angle apart."""
    safe = np.array([list(bytes.fromhex(color)) for color in _SAFE.split()])
    number = np.arange(max(0, count - 2 * len(safe)))
    # Three shades in turn: neighbors on the circle of hues come from far apart in this order.
    more = np.stack([number * 0.618034 % 1, 0.55 + 0.2 * (number % 3 == 0), 0.65 + 0.15 * (number % 3)], axis=-1)
    more = np.rint(255 * hsv_to_rgb(more)).astype(int)
    return [(int(r), int(g), int(b)) for r, g, b in np.concatenate([safe, (safe + 255) // 2, more])[:count]]


def class_colors(names: Sequence[str]) -> list[Color]:
    """Return the color of each class, which its name alone decides where it can.

    A name that says a color ("red car") has a shade of it, the word itself the color of CSS. Any other name has one of
    the ten that color-blind people tell apart, or beyond ten names one of the other `distinct_colors`.

    A name has the same color in every call, with two exceptions: an earlier name of the call has it, or it is like one
    that another name of the call says. The name then has the next one.
    """
    words = [next((word for word in name.lower().split() if word in CSS4_COLORS), None) for name in names]
    found: dict[int, Color] = {}
    taken: set[Color] = set()

    def choose(number: int, candidates: Iterable[Color]) -> None:
        """Give a name the first of the candidates that is free, or the last of all."""
        for color in candidates:
            found[number] = color
            if color not in taken:
                break
        taken.add(found[number])

    for number, (name, word) in enumerate(zip(names, words, strict=True)):
        if word is not None:
            choose(number, _shades(word, 0 if name.lower() == word else _digest(name) % len(_SHIFTS)))
    palette, said = distinct_colors(2 * len(names) + 20), list(taken)
    like_said = {color for color in palette if any(_distance(color, other) < 150 for other in said)}
    last = sorted(palette, key=like_said.__contains__)
    ten = len(_SAFE.split())
    for number, name in enumerate(names):
        if number not in found:
            start = _digest(name) % ten
            first = [color for color in (*palette[start:ten], *palette[:start]) if color not in like_said]
            choose(number, chain(first, last))
    return [found[number] for number in range(len(names))]


def _digest(name: str) -> int:
    """A number that is the same in every process, unlike Python's `hash`."""
    return zlib.crc32(name.lower().encode())


def _distance(color: Color, other: Color) -> int:
    return sum(abs(a - b) for a, b in zip(color, other, strict=True))


def _shades(word: str, start: int) -> Iterator[Color]:
    """Shades of a color of CSS: those of `_SHIFTS` from a number on, then many others."""
    color = to_rgb(word)
    level = sum(color) / 3
    others = ((1.2 * (number * 0.618034 % 1) + 0.6) % 1.2 - 0.6 for number in range(200))
    for shift in (*_SHIFTS[start:], *_SHIFTS[:start], *others):
        if not 0.1 < level < 0.9:  # white and black have one way to go
            shift = abs(shift) if level < 0.5 else -abs(shift)
        red, green, blue = (round(255 * (c + shift * (1 - c) if shift > 0 else c * (1 + shift))) for c in color)
        yield red, green, blue


def hex_color(color: Color) -> str:
    """Return a color as Matplotlib takes it, such as "#ff7f0e"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def color_labels(labels: Tensor) -> Image.Image:
    """Draw a label map (h x w long, from 0), one pixel per location. A number has the same color in every map."""
    palette = np.array(distinct_colors(int(labels.max()) + 1), dtype=np.uint8)
    return Image.fromarray(palette[labels.cpu().numpy()])


def draw_heatmap(
    image: Image.Image,
    values: Tensor,
    limits: tuple[float, float] | None = None,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """Lay a map of values over an image, dark for the lowest and bright for the highest.

    Args:
        image: the image underneath.
        values: h x w, any unit. One value becomes one crisp rectangle.
        limits: the values that are darkest and brightest, to compare maps. None: the lowest and highest of this one.
        extent: height and width of the part of the map that is over the image, in values. None: all of it.
    """
    values = values.detach().float().cpu()
    low, high = limits or (float(values.min()), float(values.max()))
    level = ((values - low) / max(high - low, 1e-12)).clamp(0, 1)
    heat = Image.fromarray(matplotlib.colormaps[HEAT](level.numpy(), bytes=True)[..., :3])
    height, width = extent or values.shape
    heat = heat.resize(image.size, Image.Resampling.NEAREST, box=(0, 0, width, height))
    return Image.blend(image.convert("RGB"), heat, 0.75)
