"""Cost aggregation (CAT-Seg, CVPR 2024, section 3.2): alternately over space, within windows, and over classes.

The features are ``B x T x h x w x D``, one map per class for T classes. No weight depends on T or on the order of the
classes, which allows any classes. The image guides the attention over space and the texts guide it over classes:
guidance is concatenated to queries and keys, never to values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.semantic.windows import from_windows, to_windows, window_mask


class GuidedLinear(nn.Linear):
    """A linear layer on the concatenation of features and guidance.

    Many features share a guidance vector. It is multiplied once and broadcast, instead of repeated and concatenated.
    """

    def __init__(self, channels: int, guidance_channels: int, outputs: int) -> None:
        super().__init__(channels + guidance_channels, outputs)
        self.channels = channels

    def forward(self, features: Tensor, guidance: Tensor) -> Tensor:  # type: ignore[override]
        """Map features, ... x channels, and guidance, ... x guidance_channels that broadcasts, to ... x outputs."""
        own, shared = self.weight.split([self.channels, self.in_features - self.channels], dim=1)
        return F.linear(features, own) + F.linear(guidance, shared, self.bias)


def feed_forward(channels: int, activation: type[nn.Module]) -> nn.Sequential:
    """Build two linear layers with a hidden width of four times the channels."""
    return nn.Sequential(nn.Linear(channels, 4 * channels), activation(), nn.Linear(4 * channels, channels))


class WindowBlock(nn.Module):
    """A Swin transformer block on the map of each class, with attention guided by the image.

    Args:
        channels: D.
        guidance_channels: G.
        heads: number of attention heads.
        window: side of a window in locations. A map that is no larger is one window, without a shift.
        shifted: shift the windows down and right by half a window.
    """

    def __init__(self, channels: int, guidance_channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.queries_keys = GuidedLinear(channels, guidance_channels, 2 * channels)
        self.values = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = feed_forward(channels, nn.GELU)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Map features B x T x h x w x D, with guidance B x h x w x G, to features of the same shape."""
        batch, _, height, width, _ = x.shape
        window = min(self.window, height, width)
        shift = window // 2 if self.shifted and min(height, width) > window else 0
        normed = self.norm1(x)
        projected = torch.cat([self.queries_keys(normed, guidance[:, None]), self.values(normed)], dim=-1)
        windows = to_windows(projected.flatten(0, 1), window, shift)
        # W x (maps * heads) x locations x d. The mask has one entry per window and broadcasts over maps and heads.
        query, key, value = windows.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        mask = window_mask((height, width), window, shift, x.device)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=None if mask is None else mask[:, None])
        attended = attended.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)
        attended = from_windows(attended, (height, width), window, shift).unflatten(0, (batch, -1))
        x = x + self.out(attended)
        return x + self.mlp(self.norm2(x))


class ClassAttention(nn.Module):
    """Linear attention over the classes at each location, guided by the texts of the classes.

    Args:
        channels: D.
        guidance_channels: G.
        heads: number of attention heads.
        pooling: in training, average maps over pooling x pooling locations and resize the result back, which saves
            time. Evaluation does not pool (released code).
        padded_classes: attend over at least this many classes: a learned token stands for each that is missing (256 in
            the released code). 0 for none.
    """

    def __init__(
        self, channels: int, guidance_channels: int, heads: int, pooling: int, padded_classes: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pooling = pooling
        self.padded_classes = padded_classes
        if padded_classes:
            self.padding = nn.Parameter(torch.zeros(channels))
            self.padding_guidance = nn.Parameter(torch.zeros(guidance_channels))
        self.norm1 = nn.LayerNorm(channels)
        self.queries_keys = GuidedLinear(channels, guidance_channels, 2 * channels)
        self.values = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = feed_forward(channels, nn.ReLU)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Map features B x T x h x w x D, with guidance B x T x G, to features of the same shape."""
        pooling = min(self.pooling, *x.shape[2:4]) if self.training else 1
        tokens = pooled = _average(x, pooling)
        classes, missing, counts = x.shape[1], self.padded_classes - x.shape[1], None
        if missing > 0:
            tokens = torch.cat([pooled, self.padding.expand_as(pooled[:, :1])], dim=1)
            guidance = torch.cat([guidance, self.padding_guidance.expand_as(guidance[:, :1])], dim=1)
            counts = torch.tensor([1.0] * classes + [missing], device=x.device)  # equal tokens are one that counts more
        normed = self.norm1(tokens)
        query_key = self.queries_keys(normed, guidance[:, :, None, None])
        query, key = query_key.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        value = self.values(normed).unflatten(-1, (self.heads, -1))
        attended = linear_attention(query[:, :classes], key, value, counts)
        pooled = pooled + attended.flatten(-2).to(pooled.dtype)
        pooled = pooled + self.mlp(self.norm2(pooled))
        return x + _resize(pooled, x)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, counts: Tensor | None = None) -> Tensor:
    """Attend over the second axis with the kernel ``elu + 1`` (Katharopoulos et al., ICML 2020), in fp32.

    Args:
        query: B x T x ... x d.
        key: B x S x ... x d.
        value: B x S x ... x d.
        counts: S: how many times a key and its value count; None for once.

    Returns:
        B x T x ... x d fp32: ``phi(q) . sum(phi(k) v^T) / (phi(q) . sum(phi(k)))``.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = (F.elu(x.float()) + 1 for x in (query, key))
        if counts is not None:
            key = torch.einsum("s,bs...d->bs...d", counts, key)
        summary = torch.einsum("bt...d,bt...e->b...de", key, value.float())
        weight = torch.einsum("bt...d,b...d->bt...", query, key.sum(dim=1))
        return torch.einsum("bt...d,b...de->bt...e", query, summary) / (weight[..., None] + 1e-6)


class AggregationLayer(nn.Module):
    """A `WindowBlock`, one with shifted windows, and a `ClassAttention`; see these for the arguments."""

    def __init__(
        self, channels: int, guidance_channels: int, heads: int, window: int, pooling: int, padded_classes: int
    ) -> None:
        super().__init__()
        self.image_norm = nn.LayerNorm(guidance_channels)
        self.spatial = nn.ModuleList(
            WindowBlock(channels, guidance_channels, heads, window, shifted) for shifted in (False, True)
        )
        self.classes = ClassAttention(channels, guidance_channels, heads, pooling, padded_classes)

    def forward(self, x: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Map features B x T x h x w x D, guided by an image B x h x w x G and texts B x T x G, to features."""
        image = self.image_norm(image)
        for block in self.spatial:
            x = block(x, image)
        return self.classes(x, text)


class CostAggregator(nn.Module):
    """Turn a cost volume into features of each class at each location.

    Args:
        embed_dim: C, the length of CLIP's embeddings.
        channels: D, a multiple of `heads`.
        guidance_channels: G, the width that the guidance of image and texts is projected to.
        layers: number of `AggregationLayer`.
        heads: see `WindowBlock`.
        window: see `WindowBlock`.
        pooling: see `ClassAttention`.
        padded_classes: see `ClassAttention`.
    """

    def __init__(
        self,
        embed_dim: int,
        channels: int = 128,
        guidance_channels: int = 128,
        *,
        layers: int = 2,
        heads: int = 4,
        window: int = 12,
        pooling: int = 2,
        padded_classes: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.embed = nn.Conv2d(1, channels, 7, padding=3)
        self.image_guidance = nn.Sequential(nn.Conv2d(embed_dim, guidance_channels, 3, padding=1), nn.ReLU())
        self.text_guidance = nn.Sequential(nn.Linear(embed_dim, guidance_channels), nn.ReLU())
        self.layers = nn.ModuleList(
            AggregationLayer(channels, guidance_channels, heads, window, pooling, padded_classes) for _ in range(layers)
        )

    def forward(self, cost: Tensor, dense: Tensor, text: Tensor) -> Tensor:
        """Aggregate costs.

        Args:
            cost: B x T x h x w cosines of `dense` with `text`.
            dense: B x C x h x w dense map.
            text: B x T x C embeddings of the classes.

        Returns:
            B x T x h x w x D.
        """
        x = self.embed(cost.flatten(0, 1)[:, None]).permute(0, 2, 3, 1).unflatten(0, cost.shape[:2])
        image = self.image_guidance(dense).permute(0, 2, 3, 1)
        words = self.text_guidance(text)
        for layer in self.layers:
            x = layer(x, image, words)
        return x


def _average(x: Tensor, pooling: int) -> Tensor:
    """Average B x T x h x w x D over pooling x pooling locations."""
    if pooling == 1:
        return x
    pooled = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), pooling)
    return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize the maps of `x` to the size of those of `like`, with aligned corners (released code)."""
    if x.shape == like.shape:
        return x
    resized = F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), like.shape[2:4], mode="bilinear", align_corners=True)
    return resized.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
