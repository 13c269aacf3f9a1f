"""F-ViT's heads on pooled regions: an embedding that is compared with text, and a class-agnostic box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.backbones.pyramid import conv_stack
from clipself_d2.vocabulary import Vocabulary


class BoxHead(nn.Module):
    """Four convolutions, two shared linear layers, and one more linear layer each for embedding and box.

    A ReLU follows every linear layer. The released code has it after the embedding too, which its authors call an
    accident: embeddings are not negative.

    Args:
        embed_dim: C, the length of an embedding and the width of the linear layers.
        channels: channels of the pooled regions and the convolutions.
        resolution: side of the pooled regions.
        num_convs: number of convolutions.
        norm: Detectron2's name of the norm after each convolution.
    """

    def __init__(
        self, embed_dim: int, channels: int = 256, resolution: int = 7, num_convs: int = 4, norm: str = "SyncBN"
    ) -> None:
        super().__init__()
        self.convs = conv_stack(channels, num_convs, norm)
        for module in self.convs.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.shared = nn.Sequential(_linear_relu(channels * resolution**2, embed_dim), _linear_relu(embed_dim))
        self.embedding = _linear_relu(embed_dim)
        deltas = nn.Linear(embed_dim, 4)
        nn.init.normal_(deltas.weight, std=0.001)
        nn.init.zeros_(deltas.bias)
        self.box = nn.Sequential(_linear_relu(embed_dim), deltas)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Map regions R x channels x s x s to embeddings R x C, not normalized, and deltas R x 4."""
        count = len(regions)
        if not count:  # batch norms cannot train on nothing, and the other ranks wait for this one: use a blank region
            regions = regions.new_zeros(1, *regions.shape[1:])
        shared = self.shared(self.convs(regions).flatten(1))
        return self.embedding(shared)[:count], self.box(shared)[:count]


def _linear_relu(in_features: int, out_features: int | None = None) -> nn.Sequential:
    linear = nn.Linear(in_features, out_features or in_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


class CosineClassifier(nn.Module):
    """Cosine of embedding and text, times a learned temperature.

    Args:
        temperature: initial value.
        fixed_temperature: replaces the learned one in evaluation (50 in the released transfer configs); None for none.
        learned_background: C, to learn an embedding of the background from a small random vector; None for the
            vocabulary's background.
    """

    def __init__(
        self,
        temperature: float = 50.0,
        fixed_temperature: float | None = None,
        learned_background: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.fixed_temperature = fixed_temperature
        self.background: nn.Parameter | None = None
        if learned_background is not None:
            self.background = nn.Parameter(torch.randn(learned_background) * learned_background**-0.5)

    def forward(self, embeddings: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Map embeddings R x C to logits R x (K + 1), fp32, with the background last.

        An embedding of zeros, which the ReLU allows, gives zeros instead of NaN.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=-1, eps=1e-6)
            background = None if self.background is None else F.normalize(self.background, dim=-1, eps=1e-6)
            fixed = None if self.training else self.fixed_temperature
            return vocabulary.cosines(unit, background) * (self.temperature if fixed is None else fixed)
