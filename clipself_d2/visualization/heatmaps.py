"""Where in an image each word is, by the cosines of a dense map with the words' embeddings."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipself_d2.clip import ImageTower
from clipself_d2.regions import dense_features, letterbox_images
from clipself_d2.visualization.colors import draw_heatmap
from clipself_d2.visualization.figures import image_grid
from clipself_d2.vocabulary import Vocabulary


@torch.inference_mode()
def word_maps(
    tower: ImageTower, vocabulary: Vocabulary, image: Tensor, size: int
) -> tuple[Tensor, tuple[float, float]]:
    """Compare every location of an image's dense map with each word.

    Args:
        tower: a CLIP image tower.
        vocabulary: K words, one embedding each, of the same CLIP.
        image: 3 x H x W uint8 RGB.
        size: side in pixels of the square that the image is letterboxed into.

    Returns:
        K x h x w cosines, and how much of h and w the image covers, in cells.
    """
    features = dense_features(tower, letterbox_images(tower, [image], size))
    [(height, width)] = features.sizes
    extent = height / features.stride, width / features.stride
    [dense] = features.without_padding()
    return torch.einsum("kc,chw->khw", vocabulary.text_embeddings.to(dense), dense).cpu(), extent


def draw_word_maps(tower: ImageTower, vocabulary: Vocabulary, image: Tensor, size: int) -> Image.Image:
    """Draw an image beside its `word_maps`, which share one scale: the title of the image has its ends."""
    maps, extent = word_maps(tower, vocabulary, image, size)
    limits = float(maps.min()), float(maps.max())
    picture = to_pil_image(image)
    heat = [draw_heatmap(picture, values, limits, extent) for values in maps]
    title = f"cosine {limits[0]:.2f} to {limits[1]:.2f}"
    return image_grid([[picture, *heat]], (title, *vocabulary.names))
