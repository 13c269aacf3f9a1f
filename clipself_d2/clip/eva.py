"""EVA-02-CLIP: timm's Eva trunk inside open_clip's TimmModel (B/16, L/14, L/14-336)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva, EvaBlock
from torch import Tensor, nn
from typing_extensions import override

from clipself_d2.clip.positions import rotary_table, rotate
from clipself_d2.clip.transformer import TransformerTower, cast_for_autocast
from clipself_d2.errors import InputError


class EVATower(TransformerTower):
    """An image tower on timm's EVA-02 trunk: separate q, k, v, an inner norm, SwiGLU, rotary positions.

    Args:
        visual: open_clip's `TimmModel` around an EVA-02-CLIP trunk.
        pixel_mean: RGB mean in 0..1 units.
        pixel_std: RGB standard deviation in 0..1 units.

    Raises:
        InputError: an Eva trunk of another build (EVA-01, EVA-02-E, Perception Encoder).
    """

    visual: TimmModel

    def __init__(self, visual: TimmModel, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        trunk = visual.trunk
        if not is_eva02_clip(trunk):
            raise InputError("this timm trunk is not EVA-02-CLIP (B/16, L/14, L/14-336): its blocks differ")
        super().__init__(
            visual,
            stride=trunk.patch_embed.patch_size[0],
            embed_dim=trunk.num_classes,
            native_grid=trunk.patch_embed.grid_size,
            num_blocks=len(trunk.blocks),
            block_dim=trunk.embed_dim,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.head_dim: int = trunk.blocks[0].attn.head_dim

    @classmethod
    @override
    def matches(cls, visual: nn.Module) -> bool:
        return isinstance(visual, TimmModel) and isinstance(visual.trunk, Eva)

    @property
    @override
    def patch_embedding(self) -> nn.Module:
        return self.visual.trunk.patch_embed.proj

    @property
    @override
    def class_token(self) -> Tensor:
        return self.visual.trunk.cls_token

    @property
    @override
    def position_embedding(self) -> Tensor:
        return self.visual.trunk.pos_embed[0]

    @override
    def pre_norm(self, tokens: Tensor) -> Tensor:
        return self.visual.trunk.norm_pre(tokens)

    @override
    def rotary(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        reference = self.visual.trunk.rope.ref_feat_shape
        return self.tables.get(("rotary", size, device), lambda: rotary_table(size, self.head_dim, reference, device))

    @override
    def trainable_units(self) -> Sequence[nn.Module]:
        return self.visual.trunk.blocks

    @override
    def parts(self, block: Any) -> dict[str, Sequence[nn.Module]]:
        return {"q": [block.attn.q_proj], "k": [block.attn.k_proj], "mlp": [block.norm2, block.mlp]}

    @override
    def query_value_weights(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        blocks: Any = self.trainable_units()
        return [(block.attn.q_proj.weight, block.attn.v_proj.weight) for block in blocks]

    @override
    def queries_keys_values(self, block: Any, tokens: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        attention = block.attn
        layers = attention.q_proj, attention.k_proj, attention.v_proj
        biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
        # One product, which keeps a GPU busier than three; the parameters stay apart, as they are in checkpoints.
        joined = F.linear(
            cast_for_autocast(block.norm1(tokens)), torch.cat([layer.weight for layer in layers]), torch.cat(biases)
        )
        query, key, value = joined.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return query, key, value

    @override
    def values(self, block: Any, tokens: Tensor) -> Tensor:
        return block.attn.v_proj(block.norm1(tokens))

    @override
    def add_attention(self, block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        return tokens + block.attn.proj(block.attn.norm(attended))

    @override
    def add_mlp(self, block: Any, tokens: Tensor) -> Tensor:
        return tokens + block.mlp(cast_for_autocast(block.norm2(tokens)))

    @override
    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.visual.trunk
        return self.visual.head(trunk.head(trunk.norm(tokens)))


def is_eva02_clip(trunk: nn.Module) -> bool:
    """Whether a timm trunk computes what `EVATower` computes."""
    return (
        isinstance(trunk, Eva)
        and trunk.num_prefix_tokens == 1
        and trunk.global_pool == "token"
        and trunk.rope is not None
        and trunk.rope.ref_feat_shape is not None
        and isinstance(trunk.fc_norm, nn.Identity)
        and all(
            isinstance(block, EvaBlock) and block.gamma_1 is None and getattr(block.attn, "q_proj", None) is not None
            for block in trunk.blocks
        )
    )
