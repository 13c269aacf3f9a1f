"""Semantic segmentations of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipself_d2.visualization.colors import Color, class_colors
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
        An image with a row per image. Each class of the labels has one color in all rows, named below them, the
        largest of the row first. Classes that are not in the labels of a row are dark, pixels without a label light.
    """
    rows, legends = [], []
    sizes = [torch.bincount(truth[truth >= 0].flatten(), minlength=len(names)).cpu() for truth in truths]
    labeled = _largest_first(torch.stack(sizes).sum(dim=0))
    colors = dict(zip(labeled, class_colors([names[k] for k in labeled]), strict=True))
    for number, (image, truth, size) in enumerate(zip(images, truths, sizes, strict=True)):
        palette = {k: colors[k] for k in _largest_first(size)}
        # The last color is that of label -1.
        table = np.array([palette.get(k, _WRONG) for k in range(len(names))] + [_UNLABELED], dtype=np.uint8)
        maps = [truth, *(labels[number] for labels in found.values())]
        rows.append([to_pil_image(image), *(Image.fromarray(table[labels.cpu().numpy()]) for labels in maps)])
        legends.append({names[k]: color for k, color in palette.items()} | {"not in the labels": _WRONG})
    return image_grid(rows, ("image", "labels", *found), legends)


def _largest_first(sizes: Tensor) -> list[int]:
    """The classes with pixels."""
    order: list[int] = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())].tolist()
    return order
