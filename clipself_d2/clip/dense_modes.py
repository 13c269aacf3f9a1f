"""Dense modes: ways to read a transformer's last blocks for a dense map that matches text. None needs training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DenseMode(NamedTuple):
    """How the last blocks of a transformer are read.

    Attributes:
        attention: which of queries (q) and keys (k) are compared; the values are weighted by the softmax of the scores,
            summed over the pairs. Empty: each token keeps its own value.
        residual: what the attention is added to: the "token" itself, the image's "class" token, or "none".
        mlp: whether the block's MLP follows.
        neighborhood: standard deviation, in patches, of a Gaussian around each patch that is added to its scores; 0
            adds none.
        num_blocks: number of blocks that are read, the last ones; what they give is summed.
        rotary: whether queries and keys have a tower's rotary positions.
        scaled: whether the scores are divided by the root of a head's width.
    """

    attention: tuple[str, ...] = ()
    residual: str = "token"
    mlp: bool = True
    neighborhood: float = 0
    num_blocks: int = 1
    rotary: bool = True
    scaled: bool = True

    @property
    def unread(self) -> set[str]:
        """The parts of the last block, of "q", "k" and "mlp", that the mode does not read."""
        parts = {part for part in "qk" if part not in "".join(self.attention)}
        return parts if self.mlp else parts | {"mlp"}


DENSE_MODES = {
    # MaskCLIP, https://arxiv.org/abs/2112.01071; the mode that CLIPSelf distills
    "no_attn": DenseMode(),
    # the ordinary block
    "full": DenseMode(("qk",)),
    # CAT-Seg's released code
    "class_residual": DenseMode(residual="class"),
    # one half of SCLIP's attention each
    "qq": DenseMode(("qq",)),
    "kk": DenseMode(("kk",)),
    # SCLIP, https://arxiv.org/abs/2312.01597
    "sclip": DenseMode(("qq", "kk")),
    # ClearCLIP, https://arxiv.org/abs/2407.12442
    "clearclip": DenseMode(("qq",), residual="none", mlp=False),
    # the same as in DeCLIP's released code, which leaves out rotary positions and the scale
    "declip": DenseMode(("qq",), residual="none", mlp=False, rotary=False, scaled=False),
    # NACLIP, https://arxiv.org/abs/2404.08181
    "naclip": DenseMode(("kk",), residual="none", mlp=False, neighborhood=5),
    # DenseRC without its learned gates (Reconstructing CLIP for Open-Vocabulary Dense Perception, CVPR 2026)
    "values": DenseMode(residual="none", mlp=False, num_blocks=3),
}
"""The dense modes of transformers, by name."""


def neighborhood_scores(size: tuple[int, int], std: float, device: torch.device) -> Tensor:
    """NACLIP's addition to the attention scores: a Gaussian of the distance between two patches.

    Args:
        size: ``(h, w)`` of the map.
        std: standard deviation in patches.
        device: of the table.

    Returns:
        ``(1 + h * w) x (1 + h * w)``; the class token's row and column are zero.
    """
    rows, columns = (
        torch.exp(-(torch.arange(n, device=device)[:, None] - torch.arange(n, device=device)).square() / (2 * std**2))
        for n in size
    )
    return torch.nn.functional.pad(torch.kron(rows, columns), (1, 0, 1, 0))
