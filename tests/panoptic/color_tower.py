"""A tower whose dense map is the mean color of each cell, so that every score can be worked out by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from clipself_d2.clip import ImageTower
from clipself_d2.clip.tower import TowerFeatures


class ColorTower(nn.Module):
    stride, embed_dim, native_size, num_blocks, block_dim = 8, 3, 16, 1, 3
    check_size = ImageTower.check_size

    def __init__(self):
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.weight = nn.Parameter(torch.ones(1))
        self.calls = []

    def check_dense_mode(self, dense_mode):
        assert dense_mode in ("no_attn", "full")

    def normalize(self, images):
        return images.float() / 255

    def dense_embeddings(self, images, dense_mode="no_attn", padded_size=None):
        return self.features(images, (), dense_mode, padded_size).dense

    def features(self, images, blocks=(), dense_mode="no_attn", padded_size=None):
        self.calls.append((dense_mode, *images.shape))
        return TowerFeatures(F.normalize(F.avg_pool2d(images, self.stride) * self.weight + 1e-6, dim=1), [])
