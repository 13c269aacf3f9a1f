"""Upsampling of aggregated costs, guided by intermediate blocks of the tower (CAT-Seg, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class GuidedConv(nn.Conv2d):
    """A 3 x 3 convolution without bias on the features of each class and a guidance that all classes share."""

    def __init__(self, channels: int, guidance_channels: int, outputs: int) -> None:
        super().__init__(channels + guidance_channels, outputs, 3, padding=1, bias=False)
        self.channels = channels

    def forward(self, features: Tensor, guidance: Tensor) -> Tensor:  # type: ignore[override]
        """Map features BT x channels x h x w and guidance B x guidance_channels x h x w to BT x outputs x h x w."""
        own, shared = self.weight.split([self.channels, self.in_channels - self.channels], dim=1)
        common = F.conv2d(guidance, shared, padding=1)
        result = F.conv2d(features, own, padding=1).unflatten(0, (len(guidance), -1))
        return (result + common[:, None]).flatten(0, 1)


class UpBlock(nn.Module):
    """Double the resolution, then apply two convolutions, the first one on the guidance too.

    Args:
        channels: channels of the input.
        guidance_channels: channels of the guidance, fewer than `channels`.
        outputs: channels of the result, normalized in groups of 16.
    """

    def __init__(self, channels: int, guidance_channels: int, outputs: int) -> None:
        super().__init__()
        inner = channels - guidance_channels
        groups = max(1, outputs // 16)
        self.up = nn.ConvTranspose2d(channels, inner, 2, stride=2)
        self.conv1 = GuidedConv(inner, guidance_channels, outputs)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Map features BT x channels x h x w and guidance B x guidance_channels x 2h x 2w to BT x outputs x 2h x 2w."""
        x = F.relu(self.norm1(self.conv1(self.up(x), guidance)))
        return F.relu(self.norm2(self.conv2(x)))


class UpsamplingDecoder(nn.Module):
    """One `UpBlock` per guiding map of the tower, then a convolution to one logit per class.

    Args:
        block_dim: channels of the tower's blocks.
        channels: channels of the aggregated costs.
        dims: channels after each doubling of the resolution; CAT-Seg has two.
        guidance_dims: channels of the guiding maps after upsampling by 2, 4, ...
        guidance_channels: channels of the guiding maps when they join the features.

    Attributes:
        scale: output side / input side, 4 for two doublings.
    """

    def __init__(
        self,
        block_dim: int,
        channels: int = 128,
        dims: Sequence[int] = (64, 32),
        guidance_dims: Sequence[int] = (256, 128),
        guidance_channels: Sequence[int] = (32, 16),
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.scale = 2 ** len(self.dims)
        self.guidance = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(block_dim, dim, factor, stride=factor),
                nn.Conv2d(dim, guiding, 3, padding=1),
                nn.ReLU(),
            )
            for factor, dim, guiding in zip(
                (2**i for i in range(1, len(dims) + 1)), guidance_dims, guidance_channels, strict=True
            )
        )
        inputs = (channels, *dims[:-1])
        self.blocks = nn.ModuleList(UpBlock(*shape) for shape in zip(inputs, guidance_channels, dims, strict=True))
        self.head = nn.Conv2d(dims[-1], 1, 3, padding=1)

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            x: B x T x h x w x D aggregated costs.
            maps: B x block_dim x h x w block maps of the tower, one per doubling.

        Returns:
            B x T x h * scale x w * scale logits.
        """
        features = x.flatten(0, 1).permute(0, 3, 1, 2)
        for block, project, guiding in zip(self.blocks, self.guidance, maps, strict=True):
            features = block(features, project(guiding))
        return self.head(features)[:, 0].unflatten(0, x.shape[:2])
