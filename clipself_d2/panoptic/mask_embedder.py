"""CLIP's embeddings of predicted masks: one dense forward of the letterboxed image, then mask pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip import ImageTower
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.errors import InputError
from clipself_d2.regions import dense_features, letterbox_images, letterbox_masks, pool_masks
from clipself_d2.regions.pooling import MASK_RESIZES


class MaskEmbedder(FrozenModules):
    """Pools mask logits on the dense map of a frozen tower.

    The tower moves with the module but is not part of its state dict, parameters or modes.

    Args:
        tower: a CLIP image tower; it is frozen.
        size: side of the square input in pixels, a multiple of the tower's stride. A CLIPSelf tower is at its best at
            the size of its distillation.
        dense_mode: dense mode of the tower; CLIPSelf distills "no_attn".
        mask_resize: how masks are resized to the cells of the map. "bilinear" (FC-CLIP): the logits are interpolated
            without antialiasing, and cells above 0 weigh 1; small masks may vanish. Or a method of
            `regions.resize_masks`, such as "area": a cell weighs the part that the mask covers, and none vanishes.
        skip_padding: see `regions.dense_features`.

    Raises:
        InputError: a size that is not a multiple of the stride, an unknown dense mode or mask_resize.
    """

    tower: ImageTower

    def __init__(
        self,
        tower: ImageTower,
        size: int,
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
        skip_padding: bool = True,
    ) -> None:
        super().__init__()
        tower.check_size(size, "model.size")
        if mask_resize not in ("bilinear", *MASK_RESIZES):
            raise InputError(f"mask_resize {mask_resize!r} is not known: use bilinear, {', '.join(MASK_RESIZES)}")
        tower.check_dense_mode(dense_mode)
        self.hold_frozen("tower", tower)
        self.size = size
        self.dense_mode = dense_mode
        self.mask_resize = mask_resize
        self.skip_padding = skip_padding

    @property
    def embed_dim(self) -> int:
        """C, the length of an embedding."""
        return self.tower.embed_dim

    @property
    def device(self) -> torch.device:
        """The tower's device."""
        return self.tower.pixel_mean.device

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Embed the masks of a batch of images.

        Args:
            images: per image 3 x H x W RGB in 0..255, of any size.
            masks: per image Q x h x w logits of the whole image, at any resolution.

        Returns:
            Per image Q x C unit embeddings, and Q bool: whether the mask covers any cell. If not, its embedding is 0.
        """
        if not images:
            return []
        letterboxed = letterbox_images(self.tower, images, self.size)
        features = dense_features(self.tower, letterboxed, dense_mode=self.dense_mode, skip_padding=self.skip_padding)
        grid = self.size // self.tower.stride
        results = []
        for image, dense, logits in zip(images, features.dense, masks, strict=True):
            cells = mask_cells(logits.to(self.device), image.shape[-2:], grid, self.mask_resize)
            results.append((pool_masks(dense, cells), cells.flatten(1).any(dim=1)))
        return results


def mask_cells(masks: Tensor, image_size: Sequence[int], grid: int, method: str) -> Tensor:
    """Resize mask logits to the square dense map of the letterboxed image, zero in the padding.

    Args:
        masks: Q x h x w logits of the whole image.
        image_size: rows and columns of the image in pixels.
        grid: side of the dense map in cells.
        method: see `MaskEmbedder`.

    Returns:
        Q x grid x grid float weights in 0..1.
    """
    if method != "bilinear":
        return letterbox_masks(masks > 0, grid, method)
    rows, columns = (max(1, round(side * grid / max(image_size))) for side in image_size)
    # A half-precision logit near 0 must not change its sign on the way.
    resized = [
        F.interpolate(part.float()[:, None], (rows, columns), mode="bilinear", align_corners=False)[:, 0] > 0
        for part in masks.split(max(1, 2**26 // max(1, masks[0:1].numel())))
    ]
    return F.pad(torch.cat(resized).float(), (0, grid - columns, 0, grid - rows))
