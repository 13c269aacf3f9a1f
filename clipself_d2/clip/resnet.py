"""The CLIP ResNets: open_clip's ModifiedResNet (RN50, RN50x4, RN50x64), for the paper's comparison with CNNs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.attention import attend
from clipself_d2.clip.positions import upper_left
from clipself_d2.clip.tower import ImageTower, TowerFeatures


class ResNetTower(ImageTower):
    """An image tower on open_clip's `ModifiedResNet`; its "blocks" are the four stages.

    The attention pool gives the embeddings. Its tokens are the mean of the last stage's map (which plays the class
    token) and the map's locations, with positional embeddings resampled to the map.

    * image embedding: the mean token attends to all tokens, as in open_clip.
    * dense ``"no_attn"``: each location goes through the pool's value and output projections alone, without attention
      and positional embedding (MaskCLIP, Zhou et al., ECCV 2022; F-VLM pools regions of the same map).
    * dense ``"full"``: each location is a query of the pool.
    * masked: the mean token attends to itself and to the locations of the region.

    The features of stage ``i`` have stride ``4 * 2 ** i`` and ``block_dim / 2 ** (3 - i)`` channels.
    Batch norms always use their stored statistics.
    """

    compiled = ("_stages",)
    visual: ModifiedResNet

    def __init__(self, visual: ModifiedResNet, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        super().__init__(
            visual,
            stride=32,
            embed_dim=visual.output_dim,
            native_grid=(size // 32, size // 32),
            num_blocks=4,
            block_dim=visual.attnpool.v_proj.in_features,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        return isinstance(visual, ModifiedResNet)

    def train(self, mode: bool = True) -> ResNetTower:
        """Training mode for all but the batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @override
    def trainable_units(self) -> Sequence[nn.Module]:
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]

    def image_embeddings(self, images: Tensor) -> Tensor:
        """The attention pool's output, ``B x C``, not normalized."""
        self.map_size(images)  # checks the sides
        tokens = self._tokens(self._stages(images)[-1])
        return self._attend(tokens[:, :1], tokens)[:, 0]

    @override
    def features(
        self, images: Tensor, blocks: Sequence[int] = (), dense_mode: str = "no_attn", padded_size: int | None = None
    ) -> TowerFeatures:
        whole = self.padded_map_size(images, padded_size)
        self.check_dense_mode(dense_mode)
        self.check_blocks(blocks)
        stages = self._stages(images)
        if dense_mode == "no_attn":
            pool = self.visual.attnpool
            dense = pool.c_proj(pool.v_proj(stages[-1].flatten(2).transpose(1, 2)))
        else:
            tokens = self._tokens(stages[-1], whole)
            dense = self._attend(tokens[:, 1:], tokens)
        dense = F.normalize(dense.float(), dim=-1).transpose(1, 2).unflatten(2, self.map_size(images))
        return TowerFeatures(dense, [stages[i] for i in blocks])

    def masked_embeddings(self, images: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
        """See `ImageTower.masked_embeddings` and the class."""
        visible = self.stack_masks(masks, images)
        tokens = self._tokens(self._stages(images)[-1])
        embeddings = self._attend(tokens[:, :1].expand(-1, visible.shape[1], -1), tokens, visible)
        return [rows[: len(mask)] for rows, mask in zip(embeddings, masks, strict=True)]

    def _stages(self, images: Tensor) -> list[Tensor]:
        x, maps = self.visual.stem(images), []
        for stage in self.trainable_units():
            x = self.checkpointed(stage)(x)
            maps.append(x)
        return maps

    def _tokens(self, x: Tensor, whole: tuple[int, int] | None = None) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        whole = whole or size
        x = x.flatten(2).transpose(1, 2)
        positions = self.tables.position_embedding(self.visual.attnpool.positional_embedding, self.native_grid, whole)
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + upper_left(positions, whole, size)

    def _attend(self, queries: Tensor, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        pool = self.visual.attnpool
        pairs = ((pool.q_proj, queries), (pool.k_proj, tokens), (pool.v_proj, tokens))
        query, key, value = (layer(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for layer, x in pairs)
        attended = attend(query, key, value, None if visible is None else visible[:, None])
        return pool.c_proj(attended.transpose(1, 2).flatten(2))
