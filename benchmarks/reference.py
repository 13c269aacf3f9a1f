"""The released recipe's arithmetic, written plainly: what the benchmarks time ours against.

Everything is fp32. Attention holds its whole matrix, crops are cut one by one by Pillow on the CPU, and masks are
pooled one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipself_d2.clip import ImageTower


@contextmanager
def plain_attention() -> Iterator[None]:
    """Turn off PyTorch's fused attention kernels: towers compute `softmax(Q K^T / sqrt d) V` with the whole matrix."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def letterbox(image: Tensor, size: int) -> Tensor:
    """Resize an image (3 x H x W uint8) into the upper left of a black square -> 3 x size x size uint8."""
    return _paste(_to_pil(image), size, centered=False)


def crop(image: Tensor, box: Sequence[float], size: int) -> Tensor:
    """Cut a box (x0, y0, x1, y1 in pixels) and resize it into the center of a black square -> 3 x size x size uint8."""
    return _paste(_to_pil(image).crop(tuple(box)), size, centered=True)  # type: ignore[arg-type]


@torch.no_grad()
def embed_crops(tower: ImageTower, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Send each crop alone through the whole tower, at its native size.

    Args:
        tower: the teacher.
        images: 3 x H_i x W_i uint8, on the CPU.
        boxes: for each image R_i x 4, in its pixels.

    Returns:
        sum(R_i) x C unit embeddings, on the tower's device.
    """
    embeddings = []
    with plain_attention():
        for image, image_boxes in zip(images, boxes, strict=True):
            for box in image_boxes.tolist():
                pixels = crop(image, box, tower.native_size)[None].to(tower.pixel_mean.device)
                embeddings.append(tower.visual(tower.normalize(pixels)))  # open_clip's own forward
    return F.normalize(torch.cat(embeddings).float(), dim=-1)


@torch.no_grad()
def dense_map(tower: ImageTower, image: Tensor, size: int) -> Tensor:
    """Read an image (3 x H x W uint8) on the padded square -> 1 x C x g x g unit embeddings."""
    pixels = letterbox(image, size)[None].to(tower.pixel_mean.device)
    with plain_attention():
        return tower.dense_embeddings(tower.normalize(pixels))


def pool_masks(dense: Tensor, masks: Tensor, image_size: Sequence[int], mode: str) -> tuple[Tensor, Tensor]:
    """Average the dense map over each mask, on a copy of the map.

    Args:
        dense: 1 x C x g x g, of the padded square.
        masks: Q x h x w of the whole image, above 0 inside; resized to the cells by interpolation.
        image_size: rows and columns of the image, in pixels.
        mode: of the interpolation, "bilinear" or "bicubic".

    Returns:
        Q x C unit embeddings, and Q bool: whether a mask covers any cell.
    """
    grid = dense.shape[-1]
    rows, columns = (round(side * grid / max(image_size)) for side in image_size)
    embeddings, valid = [], []
    for mask in masks.float():
        cells = torch.zeros(grid, grid, device=dense.device)
        resized = F.interpolate(mask[None, None], (rows, columns), mode=mode, align_corners=False)
        cells[:rows, :columns] = resized[0, 0] > 0
        embeddings.append((dense.clone() * cells).sum(dim=(2, 3))[0] / (cells.sum() + 1e-12))
        valid.append(cells.any())
    return F.normalize(torch.stack(embeddings), dim=-1), torch.stack(valid)


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _paste(image: Image.Image, size: int, centered: bool) -> Tensor:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size))
    corner = ((size - width) // 2, (size - height) // 2) if centered else (0, 0)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
