"""Feature pyramids on the block maps of a plain ViT, all of one stride: F-ViT's FPN and ViTDet's simple pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from clipself_d2.errors import InputError


def resampler(channels: int, scale: float, norm: str, narrowing: int = 1) -> tuple[nn.Module, int]:
    """A learned up-sampler (transposed convolutions), the identity, or max pooling.

    A factor of 4 is two steps with a norm and GELU between (released code; the paper says "interpolate").

    Args:
        channels: of the map.
        scale: output side over input side, a power of two.
        norm: Detectron2's name of a normalization.
        narrowing: each doubling of the side divides the channels by it.

    Returns:
        The module, and its number of output channels.

    Raises:
        InputError: another scale.
    """
    steps = math.log2(scale) if scale > 0 else math.nan
    if not steps.is_integer():
        raise InputError(f"pyramid scale {scale}: must be a power of two, such as 4, 2, 1, 0.5")
    if steps <= 0:
        return nn.Identity() if steps == 0 else nn.MaxPool2d(round(1 / scale)), channels
    layers: list[nn.Module | None] = []
    for step in range(int(steps)):
        layers += [get_norm(norm, channels), nn.GELU()] if step else []
        layers += [nn.ConvTranspose2d(channels, channels // narrowing, 2, stride=2)]
        channels //= narrowing
    return nn.Sequential(*[layer for layer in layers if layer is not None]), channels


def resample_and_project(x: Tensor, resample: nn.Module, conv: Conv2d) -> Tensor:
    """``conv(resample(x))`` for a 1 x 1 convolution.

    The last transposed convolution of an up-sampler and the convolution after it are one linear map, and are computed
    as one. At B/16 and 640 pixels this saves a third of the pyramid's arithmetic, and its largest map.

    Args:
        x: B x D x h x w.
        resample: of `resampler`.
        conv: of 1 x 1, without activation.
    """
    if not isinstance(resample, nn.Sequential):
        return conv(resample(x))
    *before, last = resample
    for layer in before:
        x = layer(x)
    with torch.autocast(x.device.type, enabled=False):
        kernel = conv.weight[:, :, 0, 0]
        weight = torch.einsum("iokl,co->ickl", last.weight, kernel)
        bias = kernel @ last.bias
        if conv.bias is not None:
            bias = bias + conv.bias
    x = F.conv_transpose2d(x, weight, bias, stride=2)
    return x if conv.norm is None else conv.norm(x)


def conv_stack(channels: int, count: int, norm: str) -> nn.Sequential:
    """3 x 3 convolutions that keep the channels, each followed by a norm and a ReLU.

    Args:
        channels: of the map.
        count: of the convolutions.
        norm: Detectron2's name of a normalization; "" for none, with biases instead.
    """
    return nn.Sequential(
        *[
            Conv2d(channels, channels, 3, padding=1, bias=not norm, norm=get_norm(norm, channels), activation=F.relu)
            for _ in range(count)
        ]
    )


def level_names(count: int) -> list[str]:
    """Names of a pyramid's levels, fine to coarse: ``p2``, ``p3``, .."""
    return [f"p{level}" for level in range(2, 2 + count)]


def _conv(in_channels: int, out_channels: int, size: int, norm: str) -> Conv2d:
    conv = Conv2d(in_channels, out_channels, size, padding=size // 2, bias=not norm, norm=get_norm(norm, out_channels))
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv


class Pyramid(nn.Module):
    """Base class of pyramids.

    Attributes:
        num_inputs: number of block maps that it reads.
        channels: of each level.
        scales: sides of the levels over the maps' side, fine to coarse.
    """

    def __init__(self, num_inputs: int, channels: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.channels = channels
        self.scales = tuple(scales)


class FPNPyramid(Pyramid):
    """F-ViT's neck: one block map per level, resampled to the level's scale, then a feature pyramid network.

    Each lateral (1 x 1) and output (3 x 3) convolution is followed by the norm, without activation. One more level is
    every second location of the coarsest.

    Args:
        in_dim: channels of the block maps.
        scales: sides of the levels over the block maps' side, fine to coarse; 4, 2, 1, 0.5 turn stride 16 into 4..32.
        channels: of the levels.
        norm: Detectron2's name of a normalization; "SyncBN" in the released code ("naiveSyncBN" for ranks on CPUs).
    """

    def __init__(
        self, in_dim: int, scales: Sequence[float] = (4, 2, 1, 0.5), channels: int = 256, norm: str = "SyncBN"
    ) -> None:
        super().__init__(len(scales), channels, (*scales, scales[-1] / 2))
        self.resamplers = nn.ModuleList(resampler(in_dim, scale, norm)[0] for scale in scales)
        self.laterals = nn.ModuleList(_conv(in_dim, channels, 1, norm) for _ in scales)
        self.outputs = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in scales)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """`num_inputs` maps of one size, B x D x h x w -> levels, fine to coarse."""
        levels = [
            resample_and_project(x, resample, lateral)
            for x, resample, lateral in zip(maps, self.resamplers, self.laterals, strict=True)
        ]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], levels[i - 1].shape[-2:], mode="nearest")
        levels = [output(level) for output, level in zip(self.outputs, levels, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


class SimplePyramid(Pyramid):
    """ViTDet's simple feature pyramid: each level is computed from the last map alone (Tab. A3, first row).

    Up-sampling halves the channels at each doubling of the side.

    Args:
        in_dim: channels of the block map.
        scales: sides of the levels over the map's side, fine to coarse.
        channels: of the levels.
        norm: Detectron2's name of a normalization; ViTDet has "LN".
    """

    def __init__(
        self, in_dim: int, scales: Sequence[float] = (4, 2, 1, 0.5), channels: int = 256, norm: str = "LN"
    ) -> None:
        super().__init__(1, channels, (*scales, scales[-1] / 2))
        self.stages = nn.ModuleList()
        for scale in scales:
            resample, width = resampler(in_dim, scale, norm, narrowing=2)
            self.stages.append(
                nn.Sequential(resample, _conv(width, channels, 1, norm), _conv(channels, channels, 3, norm))
            )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map, B x D x h x w -> levels, fine to coarse."""
        (last,) = maps
        levels = [stage(last) for stage in self.stages]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
