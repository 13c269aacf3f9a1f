"""Masks by location: each cell of a coarse grid predicts the mask, embedding and IoU of the segment under it.

A mask is a linear function of a fine feature map, whose weights (the kernel) the cell predicts, plus a quadratic
function of the position relative to the cell, which tells things apart that look alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.backbones.pyramid import conv_stack
from clipself_d2.vocabulary import Vocabulary

POSITION_TERMS = 6
"""Weights of a kernel for the position: of 1, x, y, x^2, x y and y^2."""

# Positions are in quarters of the input's side, hence of order 1 for typical segments.
_POSITION_UNIT = 0.25


@dataclass
class Cells:
    """Predictions of the n cells of B images.

    Attributes:
        features: B x E x h x w, the fine map that kernels are applied to.
        kernels: B x n x (E + `POSITION_TERMS`).
        embeddings: B x n x C, not normalized.
        mask_iou: B x n logits of the mask's IoU.
        centers: n x 2, x and y of the cells, 0..1 of the input's sides.
    """

    features: Tensor
    kernels: Tensor
    embeddings: Tensor
    mask_iou: Tensor
    centers: Tensor

    def masks(self, chosen: Tensor) -> Tensor:
        """Masks of the chosen cells (B x m indices) -> B x m x h x w fp32 logits."""
        kernels = self.kernels.gather(1, chosen[..., None].expand(-1, -1, self.kernels.shape[-1]))
        return dynamic_masks(self.features, kernels, self.centers[chosen])


class SOLOHead(nn.Module):
    """Convolutions: the fine map gives the features, the coarse map the kernels, embeddings and IoUs.

    Args:
        channels: of both maps.
        embed_dim: C, of the text embeddings.
        mask_channels: E, of the features.
        num_convs: convolutions before the predictions, on each map.
        norm: Detectron2's name of a normalization; "GN" needs channels in multiples of 32.
    """

    def __init__(
        self, channels: int, embed_dim: int, mask_channels: int = 32, num_convs: int = 2, norm: str = "GN"
    ) -> None:
        super().__init__()
        self.split = (mask_channels + POSITION_TERMS, embed_dim, 1)
        self.fine = nn.Sequential(*conv_stack(channels, num_convs, norm), nn.Conv2d(channels, mask_channels, 1))
        self.coarse = nn.Sequential(*conv_stack(channels, num_convs, norm), nn.Conv2d(channels, sum(self.split), 1))

    def forward(self, fine: Tensor, coarse: Tensor) -> Cells:
        """B x channels x h x w and B x channels x rows x columns -> the predictions of rows x columns cells."""
        predicted = self.coarse(coarse).flatten(2).mT
        kernels, embeddings, mask_iou = predicted.split(self.split, dim=-1)
        rows, columns = coarse.shape[-2:]
        y, x = torch.meshgrid(_midpoints(rows, coarse.device), _midpoints(columns, coarse.device), indexing="ij")
        centers = torch.stack([x, y], dim=-1).flatten(0, 1)
        return Cells(self.fine(fine), kernels, embeddings, mask_iou[..., 0], centers)


class CosineScores(nn.Module):
    """Log-softmax over classes of the cosines with the text, times a learned temperature.

    Args:
        temperature: initial value.
    """

    def __init__(self, temperature: float = 50.0) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, embeddings: Tensor, vocabulary: Vocabulary, only_base: bool) -> Tensor:
        """R x C embeddings -> R x K fp32 log probabilities; with `only_base` -inf for novel classes."""
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=-1, eps=1e-6)
            logits = vocabulary.cosines(unit)[:, : len(vocabulary)] * self.log_temperature.exp()
            if only_base:
                logits = logits.masked_fill(~vocabulary.is_base.to(logits.device), float("-inf"))
            return logits.log_softmax(dim=-1)


def dynamic_masks(features: Tensor, kernels: Tensor, centers: Tensor) -> Tensor:
    """Apply kernels to a map.

    Args:
        features: B x E x h x w.
        kernels: B x m x (E + `POSITION_TERMS`).
        centers: B x m x 2, x and y of the kernels' origins, in 0..1 of the sides.

    Returns:
        B x m x h x w fp32 logits.
    """
    with torch.autocast(features.device.type, enabled=False):
        features, kernels = features.float(), kernels.float()
        channels, height, width = features.shape[1:]
        masks = torch.bmm(kernels[..., :channels], features.flatten(2)).unflatten(2, (height, width))
        one, x1, y1, x2, xy, y2 = kernels[..., channels:, None].unbind(dim=2)  # each B x m x 1
        x = (_midpoints(width, features.device) - centers[..., :1]) / _POSITION_UNIT
        y = (_midpoints(height, features.device) - centers[..., 1:]) / _POSITION_UNIT
        across = one + x1 * x + x2 * x.square()
        down = y1 * y + y2 * y.square()
        return masks + across[..., None, :] + down[..., None] + (xy * y)[..., None] * x[..., None, :]


def _midpoints(count: int, device: torch.device) -> Tensor:
    """Midpoints of `count` equal parts of 0..1."""
    return (torch.arange(count, device=device) + 0.5) / count
