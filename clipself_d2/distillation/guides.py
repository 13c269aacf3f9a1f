"""Guides: frozen models whose patches resemble each other as the objects of an image do.

`CorrelationLoss` teaches their correlations; the dense mode `proxyclip` reads a tower's map by them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError


class TowerGuide(nn.Module):
    """A CLIP's own features: R-SC-CLIPSelf keeps those of the tower that CLIPSelf starts from.

    Args:
        tower: any tower.
        block: the block whose features are read; None reads the dense map.
    """

    def __init__(self, tower: ImageTower, block: int | None = None) -> None:
        super().__init__()
        self.tower = tower
        self.block = block
        tower.check_blocks([] if block is None else [block])

    def forward(self, images: Tensor) -> Tensor:
        """Features of images B x 3 x H x W in 0..1, with sides that are multiples of the tower's stride."""
        pixels = self.tower.normalize(images * 255)
        if self.block is None:
            return self.tower.dense_embeddings(pixels)
        return self.tower.features(pixels, [self.block]).blocks[0]


class TimmGuide(nn.Module):
    """A vision transformer of timm by its name, such as DINOv2 (DeCLIP's and DenseRC's guide) or DINO (ProxyCLIP's).

    Args:
        name: of timm, e.g. "vit_base_patch14_dinov2.lvd142m". Its weights are downloaded when the guide is built.
        size: longer side in pixels that images are resized to, a multiple of the model's patch; DeCLIP reads 560.
        pretrained: False leaves the weights random.

    Raises:
        InputError: a model that timm does not know or that has no patches, or weights that cannot be had.
    """

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, size: int, pretrained: bool = True) -> None:
        super().__init__()
        import timm  # here, because timm takes a second to import

        if not timm.is_model(name):
            raise InputError(f"guide: timm does not know '{name}'; timm.list_models() lists all")
        try:
            self.model = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"guide: the weights of '{name}' cannot be had: {error}") from error
        except TypeError as error:
            raise InputError(f"guide: '{name}' is no vision transformer of any image size") from error
        self.patch: int = self.model.patch_embed.patch_size[0]
        if size % self.patch:
            raise InputError(f"guide.size={size}: not a multiple of the patch of '{name}', {self.patch}")
        self.size = size
        mean, std = self.model.pretrained_cfg["mean"], self.model.pretrained_cfg["std"]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The last block's features, normalized by the model's norm, of images B x 3 x H x W in 0..1."""
        height, width = images.shape[-2:]
        patches = (max(1, round(side * self.size / max(height, width) / self.patch)) for side in (height, width))
        sides = [n * self.patch for n in patches]
        images = F.interpolate(images, sides, mode="bicubic", align_corners=False, antialias=True)
        pixels = (images - self.mean) / self.std
        return self.model.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)[0]
