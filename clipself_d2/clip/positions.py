"""Positional tables of CLIP towers at any map size."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_position_embedding(embedding: Tensor, native: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resample a learned positional embedding to another map.

    Bicubic, ``align_corners=False``, without antialias, the class token's entry kept: the released code's arithmetic.
    (timm resamples with antialias, which differs by about 1e-3.)

    Args:
        embedding: ``(t + gh * gw) x D``, first the t entries of the class token, if there is one.
        native: ``(gh, gw)``.
        size: ``(h, w)``.

    Returns:
        ``(t + h * w) x D``.
    """
    if not isinstance(size[0], torch.SymInt) and native == size:  # an export with symbols must not compare them
        return embedding
    first = len(embedding) - native[0] * native[1]
    grid = embedding[first:].T.reshape(1, -1, *native)
    grid = F.interpolate(grid.float(), size, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([embedding[:first], grid.flatten(2)[0].T.to(embedding.dtype)])


def rotary_table(
    size: tuple[int, int],
    dim: int,
    reference: tuple[int, int],
    device: torch.device,
    offset: float = 0.0,
    indexing: str = "ij",
) -> Tensor:
    """The rotations of the rotary position embedding of EVA-02 and of the Perception Encoder.

    Positions are rescaled to the reference grid (released code): row ``y`` of ``h`` is at ``(y + offset) / h *
    reference[0]``, columns likewise. Frequencies are 10000-based, one per pair of neighboring channels; rows rotate the
    first half of a head, columns the second. The class token's row is the identity.

    Args:
        size: ``(h, w)``.
        dim: channels of one head.
        reference: grid of training, ``(16, 16)`` for EVA-02-CLIP.
        device: of the table.
        offset: added to rows and columns; 1 for the Perception Encoder.
        indexing: "ij", or "xy" (the Perception Encoder): columns rotate the first half.

    Returns:
        ``(1 + h * w) x dim / 2 x 2``, cosine and sine; each rotates a pair of neighboring channels.
    """
    from timm.layers import build_rotary_pos_embed  # here, because timm takes a second to import

    sin, cos = build_rotary_pos_embed(
        list(size),
        dim=dim,
        in_pixels=False,
        ref_feat_shape=list(reference),
        grid_offset=offset,
        grid_indexing=indexing,
        device=device,
        dtype=torch.float32,
    )
    identity = torch.tensor([1.0, 0.0], device=device).expand(1, dim // 2, 2)
    return torch.cat([identity, torch.stack([cos[:, ::2], sin[:, ::2]], dim=-1)])


def upper_left(table: Tensor, whole: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The rows of a table that belong to the upper left part of a map.

    Args:
        table: ``(t + H * W) x ...``, first the t rows of the class token, if there is one.
        whole: ``(H, W)``.
        size: ``(h, w)``, no larger.

    Returns:
        ``(t + h * w) x ...``.
    """
    if whole == size:
        return table
    first = len(table) - whole[0] * whole[1]
    part = table[first:].unflatten(0, whole)[: size[0], : size[1]]
    return torch.cat([table[:first], part.flatten(0, 1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the channels of queries or keys, in fp32.

    One complex product is the fastest form on the CPU. Compilers and exports know real arithmetic alone.

    Args:
        x: ``... x N x dim``.
        table: ``N x dim / 2 x 2``, see `rotary_table`.

    Returns:
        As ``x``, in its dtype.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    else:
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class TableCache:
    """The most recent constants, by key: tensors without gradients, which may be used in any grad mode.

    An export computes them in its graph, as functions of the image's size.
    """

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self.tables: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The table of a key, built on first use; in a graph it is built by the graph."""
        if torch.compiler.is_compiling():
            return build()
        if key not in self.tables:
            # A table built under inference_mode could not be saved for a later backward.
            with torch.inference_mode(False), torch.no_grad():
                self.tables[key] = build()
            if len(self.tables) > self.capacity:
                self.tables.popitem(last=False)
        self.tables.move_to_end(key)
        return self.tables[key]

    def position_embedding(self, embedding: Tensor, native: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """`resize_position_embedding`, cached while the embedding is frozen."""
        compiling = torch.compiler.is_compiling()  # a graph knows no versions of a tensor
        if compiling or embedding.requires_grad or embedding.is_inference() or native == size:
            return resize_position_embedding(embedding, native, size)
        # The version counter detects weights that are loaded in place.
        key = (size, embedding.device, embedding.dtype, embedding.data_ptr(), embedding._version)
        return self.get(key, lambda: resize_position_embedding(embedding, native, size))
