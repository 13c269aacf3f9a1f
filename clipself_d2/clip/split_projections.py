"""Splitting the fused query, key and value projection of an attention into three parameters, and fusing it again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class QueryKeyValue(nn.Module):
    """A parametrization of a fused matrix by its three parts: each can be frozen, with no gradient or weight decay."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three D x D matrices -> 3 D x D."""
        return torch.cat([query, key, value])

    def right_inverse(self, fused: Tensor) -> tuple[Tensor, ...]:
        """The parts of a fused matrix."""
        return tuple(part.clone() for part in fused.chunk(3))


def split_projection(attention: nn.MultiheadAttention) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Split an attention's fused projection, if that is not done yet; what it computes does not change.

    The state dict then has ``parametrizations.in_proj_weight.original0``, ``1`` and ``2`` for ``in_proj_weight``.

    Returns:
        The parameters of queries, keys and values.
    """
    if not parametrize.is_parametrized(attention, "in_proj_weight"):
        parametrize.register_parametrization(attention, "in_proj_weight", QueryKeyValue())
    parts: Any = attention.get_submodule("parametrizations.in_proj_weight")
    return parts.original0, parts.original1, parts.original2


def fuse_projection(attention: nn.MultiheadAttention) -> None:
    """Undo `split_projection`, also for a copy while the original trains on; the matrix trains if its values did."""
    if parametrize.is_parametrized(attention, "in_proj_weight"):
        parts = split_projection(attention)
        # Not `remove_parametrizations`: it deletes the property of a class that copies share, and leaves no parameter
        # if nothing requires a gradient.
        del attention.parametrizations
        attention.__class__ = type(attention).__bases__[0]
        fused = torch.cat(parts).detach()
        attention.in_proj_weight = nn.Parameter(fused, requires_grad=parts[2].requires_grad)
