"""Self-attention on every device: PyTorch's fused kernels, and matrix products where those are slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Most scores held at once: 8 MiB of bfloat16, which fits the caches and stays below malloc's mmap threshold.
_MAX_SCORES = 2**22


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`softmax(query key^T / sqrt(d)) value`, without ever holding all scores.

    On the CPU in bfloat16, PyTorch's fused kernel does not use the processor's bfloat16 products. There the products
    are computed as matrices, block by block: 2.5 times as fast forward, twice as fast backward. Scores are rounded to
    bfloat16, as in any autocast matrix product; the softmax accumulates in fp32.

    Args:
        query: B x heads x N x d.
        key: B x heads x M x d.
        value: B x heads x M x d.
        mask: bool, true where a query may attend, or floats to add to the scores; broadcastable to
            B x heads x N x M. None for everywhere.

    Returns:
        B x heads x N x d.
    """
    by_blocks = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    if by_blocks and mask is None:
        return _BlockAttention.apply(query, key, value)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class _BlockAttention(torch.autograd.Function):
    """Attention by blocks of scores, which the backward pass recomputes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        q, k, v, o = (x.flatten(0, 1) for x in (query, key, value, out))
        with torch.autocast("cpu", enabled=False):
            for heads, rows, (weights,) in _blocks(q, k, 1):
                _weights(q[heads, rows], k[heads], weights)
                o[heads, rows] = weights @ v[heads]
        return out

    @staticmethod
    def backward(ctx: Any, *out_gradients: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors  # once: activation checkpointing unpacks them on each access
        q, k, v, g = (x.flatten(0, 1) for x in (*saved, out_gradients[0]))
        # fp32, because they are sums over blocks of rows
        dq, dk, dv = (torch.zeros(x.shape, dtype=torch.float32) for x in (q, k, v))
        for heads, rows, (weights, d_weights, d_scores) in _blocks(q, k, 3):
            _weights(q[heads, rows], k[heads], weights)
            torch.bmm(g[heads, rows], v[heads].mT, out=d_weights)
            torch.ops.aten._softmax_backward_data.out(d_weights, weights, -1, q.dtype, grad_input=d_scores)
            # a^T b as (b^T a)^T: products with a transposed wide matrix are slow
            dv[heads] += (g[heads, rows].mT @ weights).mT
            dk[heads] += (q[heads, rows].mT @ d_scores).mT
            dq[heads, rows] = (d_scores @ k[heads]).float()
        scale = q.shape[-1] ** -0.5
        gradients = (dq * scale, dk * scale, dv)
        return tuple(d.to(q.dtype).view_as(x) for d, x in zip(gradients, saved, strict=True))


def _weights(query: Tensor, key: Tensor, out: Tensor) -> None:
    """Write the attention weights of G x n x d queries over G x M x d keys into `out`."""
    torch.baddbmm(out, query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5, out=out)
    torch.softmax(out, dim=-1, out=out)


def _blocks(query: Tensor, key: Tensor, buffers: int) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """Slices of heads and of query rows, with `buffers` buffers for their scores, which the next slices reuse."""
    heads, rows, columns = *query.shape[:2], key.shape[1]
    some_heads = max(1, min(heads, _MAX_SCORES // (rows * columns)))
    some_rows = min(rows, max(64, _MAX_SCORES // columns))
    scratch = [query.new_empty(some_heads, some_rows, columns) for _ in range(buffers)]
    for head in range(0, heads, some_heads):
        for row in range(0, rows, some_rows):
            taken = slice(head, min(head + some_heads, heads)), slice(row, min(row + some_rows, rows))
            height, width = taken[0].stop - head, taken[1].stop - row
            yield *taken, [x[:height, :width] for x in scratch]
