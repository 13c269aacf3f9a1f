"""A guide small enough to be computed by hand."""

import torch.nn.functional as F
from torch import Tensor, nn


class MeanColors(nn.Module):
    """The mean color of each square of pixels, around gray."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images - 0.5, self.side)
