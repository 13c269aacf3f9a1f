"""Semantic segmentations of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipself_d2.visualization.colors import Color, distinct_colors
from clipself_d2.visualization.figures import image_grid

_WRONG: Color = (60, 60, 60)
_UNLABELED: Color = (235, 235, 235)


def compare_segmentations(
    images: Sequence[Tensor], truths: Sequence[Tensor], found: Mapping[str, Sequence[Tensor]], names: Sequence[str]
) -> Image.Image:
    """Draw images, their labels, and the segmentations of several models.

    Args:
        images: uint8 3 x H x W, one per row.
        truths: the labels of each, H x W long: classes, or -1 for no label.
        found: title of a model -> its classes in each image, H x W long.
        names: of the K classes.

    Returns:
        An image with a row per image. In a row each class of the labels has a color, named below it, the largest
        first. Classes that are not in the labels are dark, pixels without a label light.
    """
    rows, legends = [], []
    for number, (image, truth) in enumerate(zip(images, truths, strict=True)):
        present, areas = truth[truth >= 0].unique(return_counts=True)
        present = present[areas.argsort(descending=True, stable=True)].tolist()
        palette = dict(zip(present, distinct_colors(len(present)), strict=True))
        # The last color is that of label -1.
        table = np.array([palette.get(k, _WRONG) for k in range(len(names))] + [_UNLABELED], dtype=np.uint8)
        maps = [truth, *(labels[number] for labels in found.values())]
        rows.append([to_pil_image(image), *(Image.fromarray(table[labels.cpu().numpy()]) for labels in maps)])
        legends.append({names[k]: color for k, color in palette.items()} | {"not in the labels": _WRONG})
    return image_grid(rows, ("image", "labels", *found), legends)
