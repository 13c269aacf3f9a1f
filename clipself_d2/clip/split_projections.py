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


def split_projection(module: nn.Module, name: str) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Split the fused projection of an attention, if that is not done yet; what it computes does not change.

    The state dict then has ``parametrizations.NAME.original0``, ``1`` and ``2`` for ``NAME``.

    Args:
        module: that has the matrix.
        name: of the matrix, ``in_proj_weight`` of PyTorch's attention.

    Returns:
        The parameters of queries, keys and values.
    """
    if not parametrize.is_parametrized(module, name):
        parametrize.register_parametrization(module, name, QueryKeyValue())
    parts: Any = module.get_submodule(f"parametrizations.{name}")
    return parts.original0, parts.original1, parts.original2


def fuse_projection(module: nn.Module, name: str) -> None:
    """Undo `split_projection`, also for a copy while the original trains on; the matrix trains if its values did."""
    if parametrize.is_parametrized(module, name):
        parts = split_projection(module, name)
        # Not `remove_parametrizations`: it deletes the property of a class that copies share, and leaves no parameter
        # if nothing requires a gradient.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        fused = torch.cat(parts).detach()
        setattr(module, name, nn.Parameter(fused, requires_grad=parts[2].requires_grad))
