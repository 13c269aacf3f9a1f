"""Dense modes: ways to read a transformer's last blocks for a dense map that matches text. None needs training."""

from __future__ import annotations

import functools
import logging
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)


class DenseMode(NamedTuple):
    """How the last blocks of a transformer are read.

    Attributes:
        attention: which of queries (q) and keys (k) are compared; the values are weighted by the softmax of the scores,
            summed over the pairs. Empty: each token keeps its own value.
        residual: what the attention is added to: the "token" itself, the image's "class" token, or "none".
        mlp: whether the block's MLP follows.
        neighborhood: standard deviation, in patches, of a Gaussian around each patch that is added to its scores; 0
            adds none.
        num_blocks: number of blocks that are read, the last ones; what they give is summed.
        rotary: whether queries and keys have a tower's rotary positions.
        scaled: whether the scores are divided by the root of a head's width.
        guided: whether the values are weighted by `guided_weights`, for which the tower needs a guide.
    """

    attention: tuple[str, ...] = ()
    residual: str = "token"
    mlp: bool = True
    neighborhood: float = 0
    num_blocks: int = 1
    rotary: bool = True
    scaled: bool = True
    guided: bool = False

    @property
    def unread(self) -> set[str]:
        """The parts of the last block, of "q", "k" and "mlp", that the mode does not read."""
        parts = {part for part in "qk" if part not in "".join(self.attention)}
        return parts if self.mlp else parts | {"mlp"}


DENSE_MODES = {
    # MaskCLIP, https://arxiv.org/abs/2112.01071; the mode that CLIPSelf distills
    "no_attn": DenseMode(),
    # the ordinary block
    "full": DenseMode(("qk",)),
    # CAT-Seg's released code
    "class_residual": DenseMode(residual="class"),
    # one half of SCLIP's attention each
    "qq": DenseMode(("qq",)),
    "kk": DenseMode(("kk",)),
    # SCLIP, https://arxiv.org/abs/2312.01597
    "sclip": DenseMode(("qq", "kk")),
    # ClearCLIP, https://arxiv.org/abs/2407.12442
    "clearclip": DenseMode(("qq",), residual="none", mlp=False),
    # the same as in DeCLIP's released code, which leaves out rotary positions and the scale
    "declip": DenseMode(("qq",), residual="none", mlp=False, rotary=False, scaled=False),
    # NACLIP, https://arxiv.org/abs/2404.08181
    "naclip": DenseMode(("kk",), residual="none", mlp=False, neighborhood=5),
    # DenseRC without its learned gates (Reconstructing CLIP for Open-Vocabulary Dense Perception, CVPR 2026)
    "values": DenseMode(residual="none", mlp=False, num_blocks=3),
    # ProxyCLIP, https://arxiv.org/abs/2408.04883
    "proxyclip": DenseMode(residual="none", mlp=False, guided=True),
}
"""The dense modes of transformers, by name."""


def neighborhood_scores(size: tuple[int, int], std: float, device: torch.device) -> Tensor:
    """NACLIP's addition to the attention scores: a Gaussian of the distance between two patches.

    Args:
        size: ``(h, w)`` of the map.
        std: standard deviation in patches.
        device: of the table.

    Returns:
        ``(1 + h * w) x (1 + h * w)``; the class token's row and column are zero.
    """
    rows, columns = (
        torch.exp(-(torch.arange(n, device=device)[:, None] - torch.arange(n, device=device)).square() / (2 * std**2))
        for n in size
    )
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))


def patch_correlation(features: Tensor) -> Tensor:
    """Cosines of all pairs of locations: B x C x h x w -> B x N x N with N = h * w, in fp32."""
    locations = F.normalize(features.float().flatten(2), dim=1)
    return locations.mT @ locations


def guided_weights(features: Tensor, size: tuple[int, int]) -> Tensor:
    """ProxyCLIP's attention of patches to each other: the softmax of three times the cosines of a guide's features.

    A patch attends to itself, and to those whose cosine is at least 1.2 times the mean over all pairs of the image.

    Args:
        features: B x C x gh x gw, resampled bilinear where the grids differ.
        size: ``(h, w)`` of the map.

    Returns:
        B x N x N with N = h * w, rows that sum to 1.
    """
    if features.shape[-2:] != size:
        _say_resampled(*features.shape[-2:], *size)
        features = F.interpolate(features.float(), size, mode="bilinear", align_corners=False)
    cosines = patch_correlation(features)
    others = ~torch.eye(cosines.shape[-1], dtype=torch.bool, device=cosines.device)
    hidden = others & (cosines < 1.2 * cosines.mean(dim=(1, 2), keepdim=True))
    return (3 * cosines).masked_fill(hidden, float("-inf")).softmax(dim=-1)


@functools.cache
def _say_resampled(*sizes: int) -> None:
    logger.info("guide: its map of %d x %d is resampled to the tower's grid of %d x %d", *sizes)
