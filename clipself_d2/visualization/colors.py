"""Colors of classes, label maps and heat maps."""

from __future__ import annotations

import matplotlib
import matplotlib.colors
import numpy as np
from PIL import Image
from torch import Tensor

Color = tuple[int, int, int]
"""RGB, 0..255."""

HEAT = "inferno"
"""Matplotlib's colors of heat maps."""


def distinct_colors(count: int) -> list[Color]:
    """Return `count` RGB colors, 0..255: the ten of Tableau, their ten light shades, then hues a golden angle apart."""
    tableau = matplotlib.colormaps["tab20"](np.r_[0:20:2, 1:20:2], bytes=True)[:, :3]
    number = np.arange(max(0, count - len(tableau)))
    # Three shades in turn: neighbors on the circle of hues come from far apart in this order.
    more = np.stack([number * 0.618034 % 1, 0.55 + 0.2 * (number % 3 == 0), 0.65 + 0.15 * (number % 3)], axis=-1)
    more = np.rint(255 * matplotlib.colors.hsv_to_rgb(more))
    return [(int(r), int(g), int(b)) for r, g, b in np.concatenate([tableau, more])[:count]]


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
