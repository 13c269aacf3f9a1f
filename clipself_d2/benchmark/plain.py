"""The released recipe's arithmetic, plainly: attention with its matrix, crops one by one on the CPU, fp32.

What our paths are measured against, and must agree with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipself_d2.clip.tower import ImageTower


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`scaled_dot_product_attention` as it is written in papers: ``softmax(Q K^T / sqrt d) V``.

    Args:
        query: ``... x N x d``.
        key: ``... x M x d``.
        value: ``... x M x d``.
        attn_mask: broadcast to ``... x N x M``: bool, true where a query may look, or float, added to the scores.
        dropout_p: must be 0; no tower here drops anything.
        is_causal: must be False.
        scale: factor of the scores; None for ``1 / sqrt d``.

    Raises:
        NotImplementedError: dropout, or a causal mask.
    """
    if dropout_p or is_causal:
        raise NotImplementedError("plain attention has neither dropout nor a causal mask")
    scores = (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if attn_mask is not None:
        seen = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if seen else scores + attn_mask
    return scores.softmax(dim=-1) @ value


@contextmanager
def naive_attention() -> Iterator[None]:
    """Within the block every tower computes `attention`, its matrix materialised; PyTorch's fused kernels are off."""
    fused, fast = F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused
        torch.backends.mha.set_fastpath_enabled(fast)


def crop(photograph: Image.Image, box: Sequence[float], size: int) -> Tensor:
    """A crop as the teacher sees it, by Pillow: aspect kept, longest side `size`, centred on black.

    Args:
        photograph: RGB.
        box: x0, y0, x1, y1 in its pixels.
        size: side of the square result in pixels.

    Returns:
        3 x size x size uint8.
    """
    return _on_square(photograph.crop(tuple(box)), size, centred=True)  # type: ignore[arg-type]


def letterbox(photograph: Image.Image, size: int) -> Tensor:
    """A whole photograph as the student sees it, by Pillow: black to the right and below; 3 x size x size uint8."""
    return _on_square(photograph, size, centred=False)


def embed_crops(tower: ImageTower, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """The teacher's embeddings: each crop cut on the CPU and sent through the whole tower alone, in fp32.

    Args:
        tower: the teacher; its crops are of its native size.
        images: 3 x H_i x W_i uint8, on the CPU.
        boxes: for each image R_i x 4, in its pixels.

    Returns:
        sum(R_i) x C unit embeddings, fp32, on the tower's device.
    """
    rows = []
    with torch.no_grad(), naive_attention():
        for image, image_boxes in zip(images, boxes, strict=True):
            photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
            for box in image_boxes.tolist():
                pixels = crop(photograph, box, tower.native_size)[None].to(tower.pixel_mean.device)
                rows.append(tower.visual(tower.normalize(pixels)))  # open_clip's own forward
    return F.normalize(torch.cat(rows).float(), dim=-1)


def _on_square(picture: Image.Image, size: int, centred: bool) -> Tensor:
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (size, size))
    corner = ((size - width) // 2, (size - height) // 2) if centred else (0, 0)
    square.paste(picture.resize((width, height), Image.Resampling.BICUBIC), corner)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
