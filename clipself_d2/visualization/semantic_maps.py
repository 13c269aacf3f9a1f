"""Semantic segmentations side by side, in the colours of what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from clipself_d2.visualization.drawing import Colour, add_legend, colours, grid, to_pil, upscale

_WRONG: Colour = (60, 60, 60)
_UNLABELLED: Colour = (235, 235, 235)
_GAP = 8


def compare_segmentations(
    images: Sequence[Tensor],
    truths: Sequence[Tensor],
    found: Mapping[str, Sequence[Tensor]],
    names: Sequence[str],
    width: int = 256,
) -> Image.Image:
    """Draw photographs, their labels, and what several models make of them.

    Args:
        images: uint8 3 x H x W, one a row.
        truths: the labels of each, H x W long: classes, or -1 where there is none.
        found: title of a model -> the classes that it finds in each, H x W long.
        names: of the K classes.
        width: of a column, pixels.

    Returns:
        A picture with a row a photograph. In a row each class of the labels has a colour, named below it, the largest
        first; classes that are not in the labels are dark, pixels without a label light.
    """
    titles, rows = ("image", "labels", *found), []
    for number, (image, truth) in enumerate(zip(images, truths, strict=True)):
        present, areas = truth[truth >= 0].unique(return_counts=True)
        present = present[areas.argsort(descending=True, stable=True)].tolist()
        palette = dict(zip(present, colours(len(present)), strict=True))
        # The last colour is what -1 finds.
        table = np.array([palette.get(k, _WRONG) for k in range(len(names))] + [_UNLABELLED], dtype=np.uint8)
        maps = [truth, *(labels[number] for labels in found.values())]
        photograph = upscale(to_pil(image), width)
        drawn = (Image.fromarray(table[labels.cpu().numpy()]) for labels in maps)
        same_size = (picture.resize(photograph.size, Image.Resampling.NEAREST) for picture in drawn)  # no mixed colours
        row = grid([[photograph, *same_size]], () if number else titles, _GAP)
        legend = {names[k]: colour for k, colour in palette.items()} | {"not in the labels": _WRONG}
        rows.append([add_legend(row, legend)])
    return grid(rows, gap=_GAP)
