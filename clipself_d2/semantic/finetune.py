"""Which part of a tower CAT-Seg trains: the query and value projections of every block's attention, nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipself_d2.clip.transformer import TransformerTower


class QueryKeyValue(nn.Module):
    """A fused projection as its three parts, so that they are parameters of their own: one of them can be frozen, and
    neither gradient nor weight decay touches it.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three D x D matrices: 3 D x D."""
        return torch.cat([query, key, value])

    def right_inverse(self, fused: Tensor) -> tuple[Tensor, ...]:
        """The parts of a fused matrix."""
        return tuple(part.clone() for part in fused.chunk(3))


def train_queries_and_values(tower: TransformerTower, dense_mode: str = "no_attn") -> None:
    """Freezes a tower but for the weights (not the biases) of the attentions' queries and values.

    Where queries, keys and values are one matrix (OpenAI's, LAION's), the tower keeps them apart from now on: its state
    dict has ``attn.parametrizations.in_proj_weight.original0``, ``1`` and ``2`` for ``attn.in_proj_weight``, of which
    `fuse_projections` makes one again. What the tower computes does not change.

    Args:
        tower: any ViT.
        dense_mode: the dense mode that is trained; in "no_attn" the last block has no queries to train.
    """
    tower.set_trainable_blocks(0, dense_mode)
    attentions = _attentions(tower)
    for number, attention in enumerate(attentions):
        if isinstance(attention, nn.MultiheadAttention):
            if not parametrize.is_parametrized(attention, "in_proj_weight"):
                parametrize.register_parametrization(attention, "in_proj_weight", QueryKeyValue())
            parts: Any = attention.get_submodule("parametrizations.in_proj_weight")
            query, key, value = parts.original0, parts.original1, parts.original2
            key.requires_grad_(False)
        else:
            query, value = attention.q_proj.weight, attention.v_proj.weight
        value.requires_grad_(True)
        query.requires_grad_(dense_mode != "no_attn" or number < len(attentions) - 1)


def fuse_projections(tower: TransformerTower) -> None:
    """Undoes the parting of `train_queries_and_values`: the state dict has open_clip's names again.

    A copy of the tower may be fused while the tower itself trains on. The matrix trains where its values did.
    """
    for attention in _attentions(tower):
        if parametrize.is_parametrized(attention, "in_proj_weight"):
            parts: Any = attention.parametrizations.in_proj_weight
            fused = torch.cat([parts.original0, parts.original1, parts.original2]).detach()
            # Not by `remove_parametrizations`: that takes the property off the class, which copies share, and leaves no
            # parameter where nothing requires a gradient.
            del attention.parametrizations
            attention.__class__ = type(attention).__bases__[0]
            attention.in_proj_weight = nn.Parameter(fused, requires_grad=parts.original2.requires_grad)


def _attentions(tower: TransformerTower) -> list[Any]:
    """open_clip's or timm's attention of each block."""
    return [block.attn for block in tower.trainable_units()]
