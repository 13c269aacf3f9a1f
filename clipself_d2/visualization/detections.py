"""Detections of seen and unseen classes, drawn as in the paper's Fig. A2: two colours and a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from clipself_d2.visualization.drawing import Colour, add_legend, draw_boxes, upscale

SEEN: Colour = (31, 119, 180)
UNSEEN: Colour = (214, 39, 40)
LEGEND = {"seen in training": SEEN, "never seen in training": UNSEEN}
SMALL = 640  # pixels; a picture whose long side is shorter is enlarged by a whole factor, so that names can be read


def draw_detections(image: Image.Image, detections: Sequence[Mapping[str, Any]], threshold: float = 0.0) -> Image.Image:
    """Draw boxes with names and scores, and a legend below.

    Args:
        image: the picture; a small one is enlarged.
        detections: COCO results with `bbox` (pixels of `image`), `score`, `name` and `seen`, as `detection.demo` gives
            them, in any order; better ones are drawn over worse ones.
        threshold: least score that is drawn.

    Returns:
        A new picture, larger than the image by the legend.
    """
    scale = math.ceil(SMALL / max(image.size))
    canvas = upscale(image.convert("RGB"), image.width * scale)
    shown = sorted((d for d in detections if d["score"] >= threshold), key=lambda d: d["score"])
    corners = torch.tensor([d["bbox"] for d in shown], dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    unit = max(1, round(math.sqrt(canvas.width * canvas.height) / SMALL))
    canvas = draw_boxes(
        canvas,
        corners,
        [f"{d['name']} {d['score']:.2f}" for d in shown],
        [SEEN if d["seen"] else UNSEEN for d in shown],
        scale=scale,
        font_size=13 * unit,
        line_width=2 * unit,
    )
    return add_legend(canvas, LEGEND, 13 * unit)
