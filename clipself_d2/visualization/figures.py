"""Matplotlib figures as images: rows of images with titles and legends, and line charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from clipself_d2.visualization.colors import Color, hex_color
from clipself_d2.visualization.fonts import font_families

_DPI = 100
_GAP = 8  # pixels
_LINE_HEIGHT = 22  # pixels of a title or of a row of a legend
_ENTRY_WIDTH = 150  # pixels of a legend's column


def figure_to_image(figure: Figure) -> Image.Image:
    """Render a Matplotlib figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def image_grid(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str] = (),
    legends: Sequence[Mapping[str, Color]] = (),
    width: int = 256,
) -> Image.Image:
    """Put images in rows and columns on white. Enlarged pixels stay crisp.

    Args:
        rows: rows of equally many images; the images of a row have one aspect ratio.
        titles: one per column.
        legends: one per row, written below it: meaning -> color.
        width: of a column, in pixels.
    """
    columns = len(rows[0])
    total = columns * width + (columns + 1) * _GAP
    per_line = max(1, total // _ENTRY_WIDTH)
    heights = [max(1, round(width * row[0].height / row[0].width)) for row in rows]
    below = [_LINE_HEIGHT * math.ceil(len(legend) / per_line) for legend in legends] or [0] * len(rows)
    head = _LINE_HEIGHT if titles else 0
    height = head + sum(heights) + sum(below) + (len(rows) + 1) * _GAP
    figure = Figure(figsize=(total / _DPI, height / _DPI), dpi=_DPI)
    families = font_families(text for legend in legends for text in legend)
    lefts = [_GAP + column * (width + _GAP) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        figure.text((left + width / 2) / total, 1 - head / height, title, fontsize=11, ha="center", va="bottom")
    bottom = height - head - _GAP  # Matplotlib counts pixels from the lower left corner
    for number, row in enumerate(rows):
        bottom -= heights[number]
        for left, image in zip(lefts, row, strict=True):
            method = Image.Resampling.NEAREST if image.width <= width else Image.Resampling.BOX
            figure.figimage(np.asarray(image.resize((width, heights[number]), method)), left, bottom, origin="upper")
        if legends:
            figure.legend(
                handles=[Patch(color=hex_color(color), label=text) for text, color in legends[number].items()],
                loc="upper left",
                bbox_to_anchor=(0, bottom / height),
                ncols=per_line,
                prop={"family": families, "size": 8},
                frameon=False,
                handlelength=1,
            )
        bottom -= below[number] + _GAP
    return figure_to_image(figure)


def line_chart(points: Sequence[tuple[float, float]], title: str, x_label: str, y_label: str) -> Image.Image:
    """Draw one line through (x, y) points."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    return figure_to_image(figure)
