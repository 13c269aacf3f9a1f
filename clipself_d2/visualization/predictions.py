"""Model outputs drawn over their image by Detectron2's `Visualizer`, with one color per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import Metadata
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import Tensor

from clipself_d2.visualization.colors import distinct_colors

BASE_COLOR = "dodgerblue"
NOVEL_COLOR = "red"

_MIN_SIDE = 640  # pixels; an image with a shorter long side is enlarged by a whole factor to leave room for names


class _ClassVisualizer(Visualizer):
    """Detectron2's visualizer with exactly one color per class.

    Attributes:
        factor: by which the image is enlarged, and coordinates and masks have to be.
    """

    def __init__(self, image: Tensor, names: Sequence[str] = ()) -> None:
        colors = distinct_colors(len(names))
        classes = {"thing_classes": names, "thing_colors": colors, "stuff_classes": names, "stuff_colors": colors}
        self.factor = math.ceil(_MIN_SIDE / max(image.shape[1:]))
        super().__init__(_enlarge(image.permute(1, 2, 0), self.factor).cpu().numpy(), Metadata(**classes))

    def _jitter(self, color: Any) -> Any:
        return color

    def image(self) -> Image.Image:
        return Image.fromarray(self.output.get_image())


def _enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Repeat the pixels of an H x W or H x W x C tensor."""
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


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
    visualizer = _ClassVisualizer(image)
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
        visualizer = _ClassVisualizer(image, names)
        visualizer.draw_panoptic_seg(
            _enlarge(ids, visualizer.factor), [dict(segment) for segment in segments], alpha=0.55
        )
        return visualizer.image()
    instances = output["instances"]
    instances = instances[instances.scores >= threshold]
    classes = instances.pred_classes.tolist()
    labels = [f"{names[k]} {score:.2f}" for k, score in zip(classes, instances.scores.tolist(), strict=True)]
    colors = [BASE_COLOR if is_base[k] else NOVEL_COLOR for k in classes]
    return draw_boxes(image, instances.pred_boxes.tensor, labels, colors)
