"""A panoptic segmentation over its photograph: a colour a class, an outline a segment, and a legend of the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clipself_d2.visualization.drawing import add_legend, colours, upscale

SMALL = 640  # pixels; a picture whose long side is shorter is enlarged by a whole factor, so that names can be read


def draw_segments(
    image: Image.Image,
    ids: Tensor,
    segments: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    opacity: float = 0.55,
    all_named: bool = False,
) -> Image.Image:
    """Draw a panoptic segmentation.

    Args:
        image: the photograph.
        ids: H x W int, in pixels of the photograph: the segment of each pixel, 0 for none.
        segments: for each its ``id`` and ``category_id`` (0..K-1), as in Detectron2's ``panoptic_seg``.
        names: of the K classes.
        opacity: of the colours, 0..1.
        all_named: whether the legend has all K classes, so that all frames of a film are of one size and a class has
            one colour in all of them; else it has those that occur.

    Returns:
        A new picture, higher than the photograph by the legend: the classes that occur, largest first, with the number
        of segments where there are several, and "unnamed" where pixels have none; or all classes and "unnamed".
    """
    labels = ids.cpu().numpy()
    areas = np.bincount(labels.ravel(), minlength=max([s["id"] for s in segments], default=0) + 1)
    extent: dict[int, int] = {}
    for segment in segments:
        extent[segment["category_id"]] = extent.get(segment["category_id"], 0) + int(areas[segment["id"]])
    order = sorted(extent, key=lambda k: -extent[k])
    if all_named:
        order = list(range(len(names)))
    palette = dict(zip(order, colours(len(order)), strict=True))

    table = np.zeros((len(areas), 4), dtype=np.uint8)  # a segment's colour and opacity
    for segment in segments:
        table[segment["id"]] = (*palette[segment["category_id"]], round(255 * opacity))
    paint = table[labels]
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    paint[edges] = (255, 255, 255, 255)

    scale = math.ceil(SMALL / max(image.size))
    canvas = upscale(image.convert("RGB"), image.width * scale)
    overlay = upscale(Image.fromarray(paint), canvas.width)
    canvas.paste(overlay.convert("RGB"), (0, 0), overlay)

    counts = {k: 0 if all_named else sum(s["category_id"] == k for s in segments) for k in order}
    entries = {names[k] + (f" x {counts[k]}" if counts[k] > 1 else ""): palette[k] for k in order}
    if all_named or areas[0]:
        entries["unnamed"] = (235, 235, 235)
    return add_legend(canvas, entries, 13 * max(1, round(math.sqrt(canvas.width * canvas.height) / SMALL)))
