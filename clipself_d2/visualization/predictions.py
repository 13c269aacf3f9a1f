"""Model outputs drawn over their image, with names by Detectron2's `Visualizer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from clipself_d2.visualization.colors import class_colors, hex_color
from clipself_d2.visualization.figures import figure_to_image
from clipself_d2.visualization.fonts import font_families

_MIN_SIDE = 640  # pixels; an image with a shorter long side is enlarged by a whole factor to leave room for names
_OPACITY = 0.55  # of segments
_OUTLINE = 240  # gray level
_MOST_COVERED = 0.2  # of a box by its own label; a label that would cover more goes outside


class _NameVisualizer(Visualizer):
    """Detectron2's visualizer, whose texts may be of any script and are never read as formulas.

    Attributes:
        factor: by which the image is enlarged, and coordinates and masks have to be.
        frame: width and height of the enlarged image.
    """

    def __init__(self, image: Tensor, names: Iterable[str]) -> None:
        self.factor = math.ceil(_MIN_SIDE / max(image.shape[1:]))
        self._families = font_families(names)
        super().__init__(_enlarge(image.permute(1, 2, 0), self.factor).cpu().numpy(), Metadata())
        self.frame = np.array([self.output.width, self.output.height], dtype=float)
        self._taken = np.zeros((0, 4))

    def draw_text(self, *args: Any, **kwargs: Any) -> VisImage:
        output = super().draw_text(*args, **kwargs)
        output.ax.texts[-1].set(fontfamily=self._families, parse_math=False)
        return output

    def draw_name(self, text: str, color: Any, spots: Callable[[float, float], list[list[float]]]) -> None:
        """Write a text where it buries no other.

        Args:
            text: the text.
            color: a Matplotlib color.
            spots: width and height of the text -> places of its upper left corner, the best first.
        """
        self.draw_text(text, (0, 0), font_size=0.75 * self._default_font_size, horizontal_alignment="left")
        label = self.output.ax.texts[-1]
        label.set_color((2 + np.array(to_rgb(color))) / 3)  # the background is black
        extent = label.get_window_extent(self.output.canvas.get_renderer())
        size = np.array([extent.width, extent.height]) + 2
        place = free_spot(size, np.array(spots(*size)), self._taken, self.frame)
        label.set_position(place)
        self._taken = np.concatenate([self._taken, [[*place, *(place + size)]]])


def _enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Repeat the pixels of an H x W or H x W x C tensor."""
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1) if factor > 1 else pixels


def free_spot(size: np.ndarray, spots: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Choose the place where a rectangle covers least of others.

    Args:
        size: width and height of the rectangle.
        spots: S x 2, places of its upper left corner, the best first. They are moved into the frame.
        taken: N x 4, the others, x0 y0 x1 y1.
        frame: width and height of all.

    Returns:
        x and y.
    """
    spots = np.clip(spots, 0, np.maximum(frame - size, 0))
    low = np.maximum(spots[:, None], taken[None, :, :2])
    high = np.minimum(spots[:, None] + size, taken[None, :, 2:])
    spot: np.ndarray = spots[(high - low).clip(min=0).prod(axis=2).sum(axis=1).argmin()]
    return spot


def _spots_of_box(x0: float, y0: float, x1: float, y1: float, width: float, height: float) -> list[list[float]]:
    inside = [[x0, y0], [x0, y1 - height], [x1 - width, y0]]
    outside = [[x0, y0 - height], [x0, y1], [x1, y0], [x1 - width, y0 - height], [x1, y1 - height], [x0 - width, y0]]
    fits = width * height < _MOST_COVERED * (x1 - x0) * (y1 - y0)
    return inside + outside if fits else outside + inside


def _spots_around(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x - width / 2, y + (shift - 0.5) * height] for shift in (0, -1, 1, -2, 2)]


def draw_boxes(*args: Any, **kwargs: Any) -> Image.Image:
    """Draw a `boxes_figure`, whose arguments these are, as an image."""
    return figure_to_image(boxes_figure(*args, **kwargs))


def draw_predictions(*args: Any, **kwargs: Any) -> Image.Image:
    """Draw a `prediction_figure`, whose arguments these are, as an image."""
    return figure_to_image(prediction_figure(*args, **kwargs))


def boxes_figure(
    image: Tensor, boxes: Tensor, labels: Sequence[str], colors: Sequence[str], dashed: Sequence[bool] | None = None
) -> Figure:
    """Draw boxes with labels.

    Args:
        image: 3 x H x W uint8 RGB.
        boxes: R x 4, x0 y0 x1 y1 in pixels of the image.
        labels: one text per box. The first ones get the best places.
        colors: one Matplotlib color per box.
        dashed: for each box whether its outline is. None: none is.

    Returns:
        The image, enlarged by a whole factor if it is small, with a pixel per dot.
    """
    visualizer = _NameVisualizer(image, labels)
    corners = (boxes.detach().cpu() * visualizer.factor).tolist()
    for corner, color, broken in zip(corners, colors, dashed or [False] * len(corners), strict=True):
        visualizer.draw_box(corner, alpha=1, edge_color=color, line_style="--" if broken else "-")
    for corner, label, color in zip(corners, labels, colors, strict=True):
        visualizer.draw_name(label, color, partial(_spots_of_box, *corner))
    return visualizer.output.fig


def prediction_figure(
    image: Tensor, output: Mapping[str, Any], names: Sequence[str], is_base: Sequence[bool], threshold: float = 0.0
) -> Figure:
    """Draw the output of a detector or of a panoptic segmenter, in the colors of the classes.

    Args:
        image: 3 x H x W uint8 RGB.
        output: what Detectron2's models return for an image, on the CPU, with ``panoptic_seg`` or ``instances``.
        names: of the classes.
        is_base: for each class whether it is a base class, whose boxes are dashed.
        threshold: lowest score of a box that is drawn.

    Returns:
        See `boxes_figure`.
    """
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        return segments_figure(image, ids, segments, names)
    instances = output["instances"]
    instances = instances[instances.scores >= threshold]
    classes = instances.pred_classes.tolist()
    labels = [f"{names[k]} {score:.2f}" for k, score in zip(classes, instances.scores.tolist(), strict=True)]
    palette = class_colors(names)
    colors, dashed = [hex_color(palette[k]) for k in classes], [bool(is_base[k]) for k in classes]
    return boxes_figure(image, instances.pred_boxes.tensor, labels, colors, dashed)


def segments_figure(image: Tensor, ids: Tensor, segments: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Paint segments in the colors of their classes, outline them, and name each at its largest part.

    Detectron2's visualizer keeps four floats per pixel of every segment with a hole, 190 MB at 12 megapixels.

    Args:
        image: 3 x H x W uint8 RGB.
        ids: H x W segment ids, 0 for none.
        segments: with ``id`` and ``category_id``.
        names: of the classes.

    Returns:
        See `boxes_figure`.
    """
    colors = np.array(class_colors(names), dtype=np.float32)
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
            around = partial(_spots_around, *(step * visualizer.factor * np.array([column, row])))
            visualizer.draw_name(names[segment["category_id"]], colors[segment["category_id"]] / 255, around)
    return visualizer.output.fig
