"""Matplotlib figures: rows of images with titles, legends and a color bar, and line charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.visualization.colors import HEAT, Color, hex_color
from clipself_d2.visualization.fonts import font_families

_DPI = 72  # that of PDF and SVG: a point is a pixel
_GAP = 8  # pixels
_LINE_HEIGHT = 22  # pixels of a title or of a row of a legend
_ENTRY_WIDTH = 150  # pixels of a legend's column
_BAR_WIDTH = 64  # pixels of a color bar with its numbers


@dataclass(frozen=True)
class ColorBar:
    """The scale that all heat maps of a grid share.

    Attributes:
        low: the value of the darkest color.
        high: that of the brightest.
        label: what the values are.
    """

    low: float
    high: float
    label: str


def figure_to_image(figure: Figure) -> Image.Image:
    """Render a Matplotlib figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save_figure(figure: Figure, path: Path, dpi: float | None = None) -> None:
    """Write a figure in the format of a path's suffix. In SVG and PDF texts stay texts.

    Args:
        figure: the figure.
        path: of the file.
        dpi: resolution of the images inside, if it is not that of the figure.
    """
    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
        write_atomically(path, partial(figure.savefig, dpi=dpi or "figure"))


def image_grid(rows: Sequence[Sequence[Image.Image]], *args: Any, **kwargs: Any) -> Image.Image:
    """Draw a `grid_figure`, whose arguments these are, as an image."""
    return figure_to_image(grid_figure(rows, *args, **kwargs))


def grid_figure(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str] = (),
    legends: Sequence[Mapping[str, Color]] = (),
    width: int = 256,
    labels: Sequence[str] = (),
    bar: ColorBar | None = None,
) -> Figure:
    """Put images in rows and columns on white. Enlarged pixels stay crisp.

    Args:
        rows: rows of equally many images; the images of a row have one aspect ratio.
        titles: one per column.
        legends: one per row, written below it: meaning -> color.
        width: of a column, in pixels.
        labels: one per row, written upright on its left.
        bar: a color bar on the right.
    """
    columns = len(rows[0])
    margin = _LINE_HEIGHT if labels else 0
    total = margin + columns * width + (columns + 1) * _GAP + (_BAR_WIDTH if bar else 0)
    per_line = max(1, total // _ENTRY_WIDTH)
    heights = [max(1, round(width * row[0].height / row[0].width)) for row in rows]
    below = [_LINE_HEIGHT * math.ceil(len(legend) / per_line) for legend in legends] or [0] * len(rows)
    head = _LINE_HEIGHT if titles else 0
    height = head + sum(heights) + sum(below) + (len(rows) + 1) * _GAP
    figure = Figure(figsize=(total / _DPI, height / _DPI), dpi=_DPI)
    families = font_families([*titles, *labels, *(text for legend in legends for text in legend)])
    write = partial(figure.text, fontfamily=families, fontsize=15, parse_math=False)
    lefts = [margin + _GAP + column * (width + _GAP) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        write((left + width / 2) / total, 1 - head / height, title, ha="center", va="bottom")
    bottom = height - head - _GAP  # Matplotlib counts pixels from the lower left corner
    for number, row in enumerate(rows):
        bottom -= heights[number]
        middle = (bottom + heights[number] / 2) / height
        for left, image in zip(lefts, row, strict=True):
            axes = figure.add_axes((left / total, bottom / height, width / total, heights[number] / height))
            axes.imshow(image, interpolation="nearest" if image.width <= width else "antialiased", aspect="auto")
            axes.set_axis_off()
        if labels:
            write((_GAP + _LINE_HEIGHT / 2) / total, middle, labels[number], rotation=90, ha="center", va="center")
        if legends:
            figure.legend(
                handles=[
                    Patch(facecolor=hex_color(color), edgecolor="gray", linewidth=0.5, label=text)  # white is seen too
                    for text, color in legends[number].items()
                ],
                loc="upper left",
                bbox_to_anchor=(0, bottom / height),
                ncols=per_line,
                prop={"family": families, "size": 11},
                frameon=False,
                handlelength=1,
            )
        bottom -= below[number] + _GAP
    if bar:
        place = ((total - _BAR_WIDTH) / total, _GAP / height, 12 / total, 1 - (head + 2 * _GAP) / height)
        colors = ScalarMappable(Normalize(bar.low, bar.high), HEAT)
        figure.colorbar(colors, cax=figure.add_axes(place)).set_label(bar.label, fontsize=12, labelpad=2)
    return figure


def line_chart(points: Sequence[tuple[float, float]], title: str, x_label: str, y_label: str) -> Image.Image:
    """Draw one line through (x, y) points."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    return figure_to_image(figure)
