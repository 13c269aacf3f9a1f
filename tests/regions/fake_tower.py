"""A tower whose outputs are plain averages of colors, so that every embedding can be worked out by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from clipself_d2.clip.tower import ImageTower, TowerFeatures


class ColorTower(nn.Module):
    """Dense map: the mean color of each 8 x 8 cell. Image embedding: the mean color. Masked: of the region's
    cells."""

    stride, embed_dim, native_size, num_blocks, block_dim = 8, 3, 16, 1, 3
    check_size = ImageTower.check_size

    def __init__(self):
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.calls = []

    def normalize(self, images):
        return images.float() / 255 + 0.1

    def image_embeddings(self, images):
        self.calls.append(("image", len(images)))
        return images.mean(dim=(2, 3))

    def dense_embeddings(self, images, dense_mode="no_attn", padded_size=None):
        return self.features(images, (), dense_mode, padded_size).dense

    def features(self, images, blocks=(), dense_mode="no_attn", padded_size=None):
        self.calls.append((dense_mode, len(images)))
        return TowerFeatures(F.normalize(F.avg_pool2d(images, self.stride), dim=1), [])

    def masked_embeddings(self, images, masks):
        self.calls.append(("masked", len(images)))
        cells = F.avg_pool2d(images, self.stride)
        return [
            torch.stack([cell[:, mask].mean(dim=1) for mask in per_image]) if len(per_image) else torch.zeros(0, 3)
            for cell, per_image in zip(cells, masks, strict=True)
        ]
