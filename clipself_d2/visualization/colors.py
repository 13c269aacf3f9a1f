"""Colors of classes, label maps and heat maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import matplotlib
import matplotlib.colors
import numpy as np
from PIL import Image
from torch import Tensor

Color = tuple[int, int, int]
"""RGB, 0..255."""

HEAT = "inferno"
"""Matplotlib's colors of heat maps."""


# Told apart by color-blind people too (M. A. Petroff, Accessible Color Sequences for Data Visualization, 2021).
_SAFE = "3f90da ffa90e bd1f01 94a4a2 832db6 a96b59 e76300 b9ac70 717581 92dadd"


def distinct_colors(count: int) -> list[Color]:
    """Return `count` RGB colors: ten that color-blind people tell apart, lighter shades, hues a golden angle apart."""
    safe = np.array([list(bytes.fromhex(color)) for color in _SAFE.split()])
    number = np.arange(max(0, count - 2 * len(safe)))
    # Three shades in turn: neighbors on the circle of hues come from far apart in this order.
    more = np.stack([number * 0.618034 % 1, 0.55 + 0.2 * (number % 3 == 0), 0.65 + 0.15 * (number % 3)], axis=-1)
    more = np.rint(255 * matplotlib.colors.hsv_to_rgb(more)).astype(int)
    return [(int(r), int(g), int(b)) for r, g, b in np.concatenate([safe, (safe + 255) // 2, more])[:count]]


def class_colors(names: Sequence[str]) -> list[Color]:
    """Return the color of each class: the one that its name says ("red car"), else one of `distinct_colors`.

    Classes whose names say the same color get shades of it; the others get colors unlike these.
    """
    said: dict[int, Color] = {}
    seen: Counter[str] = Counter()
    for number, name in enumerate(names):
        word = next((word for word in name.lower().split() if word in matplotlib.colors.CSS4_COLORS), None)
        if word is not None:
            said[number] = _shade(word, seen[word])
            seen[word] += 1

    def is_taken(color: Color) -> bool:
        return any(sum(abs(a - b) for a, b in zip(color, other, strict=True)) < 150 for other in said.values())

    others = iter(sorted(distinct_colors(2 * len(names) + 20), key=is_taken))
    return [said[number] if number in said else next(others) for number in range(len(names))]


def _shade(word: str, number: int) -> Color:
    """A color of CSS, and for numbers from 1 its shades."""
    color = np.array(matplotlib.colors.to_rgb(word))
    shift = (1.2 * (number * 0.618034 % 1) + 0.6) % 1.2 - 0.6  # towards white, or below 0 towards black
    if not 0.1 < color.mean() < 0.9:  # white and black have one way to go
        shift = abs(shift) if color.mean() < 0.5 else -abs(shift)
    red, green, blue = np.rint(255 * (color + shift * (1 - color) if shift > 0 else color * (1 + shift)))
    return int(red), int(green), int(blue)


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
