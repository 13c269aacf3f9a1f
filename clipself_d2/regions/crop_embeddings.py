"""Regions as image crops: what CLIPSelf's teacher sees, and how crops are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.regions.crops import crop_and_resize

# Most crops that go through the tower at once; bounds the memory of a large batch.
_CROP_BATCH = 64


def embed_crops(tower: ImageTower, images: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """Embed image crops with the tower's ordinary image embedding; crops of all images share batches.

    Args:
        tower: a CLIP image tower.
        images: 3 x H_i x W_i uint8, at least one, on any device.
        boxes: per image R_i x 4, in its pixels.
        size: side in pixels of the square crops, see `crop_and_resize`.

    Returns:
        sum(R_i) x C unit embeddings, fp32, on the tower's device.
    """
    pairs = zip(images, boxes, strict=True)
    runs = (
        (image.to(tower.pixel_mean.device, non_blocking=True), run)
        for image, each in pairs
        for run in each.split(_CROP_BATCH)
    )
    embeddings = []
    for crops in _batches(crop_and_resize(image, run, size) for image, run in runs):
        embeddings.append(tower.image_embeddings(tower.normalize(crops)).float())
    return F.normalize(torch.cat(embeddings), dim=-1)


def _batches(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Join neighbors up to `_CROP_BATCH` crops."""
    batch: list[Tensor] = []
    for piece in pieces:
        if batch and sum(map(len, batch)) + len(piece) > _CROP_BATCH:
            yield torch.cat(batch)
            batch = []
        batch.append(piece)
    yield torch.cat(batch)
