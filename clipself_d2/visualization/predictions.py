"""Model outputs drawn over their image, with names by Detectron2's `Visualizer`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.utils.visualizer import VisImage, Visualizer
from PIL import Image
from torch import Tensor

from clipself_d2.visualization.colors import distinct_colors
from clipself_d2.visualization.fonts import font_families

BASE_COLOR = "dodgerblue"
NOVEL_COLOR = "red"

_MIN_SIDE = 640  # pixels; an image with a shorter long side is enlarged by a whole factor to leave room for names
_OPACITY = 0.55  # of segments
_OUTLINE = 240  # gray level


class _NameVisualizer(Visualizer):
    """Detectron2's visualizer, whose texts may be of any script and are never read as formulas.

    Attributes:
        factor: by which the image is enlarged, and coordinates and masks have to be.
    """

    def __init__(self, image: Tensor, names: Iterable[str]) -> None:
        self.factor = math.ceil(_MIN_SIDE / max(image.shape[1:]))
        self._families = font_families(names)
        super().__init__(_enlarge(image.permute(1, 2, 0), self.factor).cpu().numpy(), Metadata())

    def draw_text(self, *args: Any, **kwargs: Any) -> VisImage:
        output = super().draw_text(*args, **kwargs)
        output.ax.texts[-1].set(fontfamily=self._families, parse_math=False)
        return output

    def image(self) -> Image.Image:
        return Image.fromarray(self.output.get_image())


def _enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Repeat the pixels of an H x W or H x W x C tensor."""
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1) if factor > 1 else pixels


def draw_boxes(image: Tensor, boxes: Tensor, labels: Sequence[str], colors: Sequence[str]) -> Image.Image:
    """Draw boxes with labels.

    Args:
        image: 3 x H x W uint8 RGB.
        boxes: R x 4, x0 y0 x1 y1 in pixels of the image.
        labels: one text per box.
        colors: one Matplotlib color per box.

    Returns:
        The image, enlarged by a whole factor if it is small.
    """
    visualizer = _NameVisualizer(image, labels)
    visualizer.overlay_instances(
        boxes=boxes.detach().cpu() * visualizer.factor, labels=labels, assigned_colors=list(colors)
    )
    return visualizer.image()


def draw_predictions(
    image: Tensor, output: Mapping[str, Any], names: Sequence[str], is_base: Sequence[bool], threshold: float = 0.0
) -> Image.Image:
    """Draw the output of a detector or of a panoptic segmenter.

    Args:
        image: 3 x H x W uint8 RGB.
        output: what Detectron2's models return for an image, on the CPU, with ``panoptic_seg`` or ``instances``.
        names: of the classes.
        is_base: for each class whether it is a base class. Boxes of base classes are blue, others red.
        threshold: lowest score of a box that is drawn.

    Returns:
        The image, enlarged by a whole factor if it is small.
    """
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        return draw_segments(image, ids, segments, names)
    instances = output["instances"]
    instances = instances[instances.scores >= threshold]
    classes = instances.pred_classes.tolist()
    labels = [f"{names[k]} {score:.2f}" for k, score in zip(classes, instances.scores.tolist(), strict=True)]
    colors = [BASE_COLOR if is_base[k] else NOVEL_COLOR for k in classes]
    return draw_boxes(image, instances.pred_boxes.tensor, labels, colors)


def draw_segments(
    image: Tensor, ids: Tensor, segments: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Image.Image:
    """Paint segments in the colors of their classes, outline them, and name each at its largest part.

    Detectron2's visualizer keeps four floats per pixel of every segment with a hole, 190 MB at 12 megapixels.

    Args:
        image: 3 x H x W uint8 RGB.
        ids: H x W segment ids, 0 for none.
        segments: with ``id`` and ``category_id``.
        names: of the classes.

    Returns:
        The image, enlarged by a whole factor if it is small.
    """
    colors = np.array(distinct_colors(len(names)), dtype=np.float32)
    table = np.zeros((int(ids.max()) + 1, 3), dtype=np.float32)
    opacity = np.zeros((len(table), 1), dtype=np.float32)
    for segment in segments:
        table[segment["id"]], opacity[segment["id"]] = colors[segment["category_id"]], _OPACITY
    painted, numbers = image.permute(1, 2, 0).cpu().numpy().copy(), ids.cpu().numpy()
    for row, owners in zip(painted, numbers, strict=True):
        row[:] = np.rint(row * (1 - opacity[owners]) + table[owners] * opacity[owners])
    painted[:-1][numbers[:-1] != numbers[1:]] = _OUTLINE
    painted[:, :-1][numbers[:, :-1] != numbers[:, 1:]] = _OUTLINE
    visualizer = _NameVisualizer(
        torch.from_numpy(painted).permute(2, 0, 1), [names[s["category_id"]] for s in segments]
    )
    # Places of names need no more than a thousand pixels per side.
    step = max(1, max(ids.shape) // 1000)
    coarse = numbers[::step, ::step]
    for segment in segments:
        count, parts, stats, _ = cv2.connectedComponentsWithStats((coarse == segment["id"]).astype(np.uint8))
        if count > 1:
            largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
            row, column = np.median((parts == largest).nonzero(), axis=1)
            place = np.array([column, row]) * step * visualizer.factor
            visualizer.draw_text(names[segment["category_id"]], place, color=colors[segment["category_id"]] / 255)
    return visualizer.image()
