"""Where in an image each word is, by the cosines of a dense map with the words' embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipself_d2.clip import ImageTower
from clipself_d2.regions import dense_features, letterbox_images
from clipself_d2.visualization.colors import draw_heatmap
from clipself_d2.visualization.figures import ColorBar, grid_figure
from clipself_d2.vocabulary import Vocabulary


@torch.inference_mode()
def word_maps(
    tower: ImageTower, vocabulary: Vocabulary, image: Tensor, size: int
) -> tuple[Tensor, tuple[float, float]]:
    """Compare every location of an image's dense map with each word.

    Args:
        tower: a CLIP image tower.
        vocabulary: K words of the same CLIP, without a background.
        image: 3 x H x W uint8 RGB.
        size: side in pixels of the square that the image is letterboxed into.

    Returns:
        K x h x w cosines, and how much of h and w the image covers, in cells.
    """
    features = dense_features(tower, letterbox_images(tower, [image], size))
    [(height, width)] = features.sizes
    extent = height / features.stride, width / features.stride
    [dense] = features.without_padding()
    return vocabulary.cosines(dense.permute(1, 2, 0)).permute(2, 0, 1).cpu(), extent


def draw_word_maps(towers: Mapping[str, ImageTower], vocabulary: Vocabulary, image: Tensor, size: int) -> Figure:
    """Draw an image beside its `word_maps`, on one scale.

    Args:
        towers: what to call them -> towers of one CLIP, before and after CLIPSelf for example; a row each.
        vocabulary: see `word_maps`.
        image: see `word_maps`.
        size: see `word_maps`.
    """
    found = [word_maps(tower, vocabulary, image, size) for tower in towers.values()]
    limits = min(float(maps.min()) for maps, _ in found), max(float(maps.max()) for maps, _ in found)
    picture = to_pil_image(image)
    rows = [[picture, *(draw_heatmap(picture, values, limits, extent) for values in maps)] for maps, extent in found]
    labels = list(towers) if len(towers) > 1 else []
    return grid_figure(rows, ("image", *vocabulary.names), labels=labels, bar=ColorBar(*limits, "cosine"))
