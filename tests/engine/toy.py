"""A model, a loader and an evaluator of a few lines, and the config that puts them together."""

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor, nn

TRUTH = torch.tensor([1.0, -2.0, 3.0])

CONFIG = """
from detectron2.config import LazyCall as L
from torch.optim import AdamW
from clipself_d2.engine.optim import param_groups, warmup_cosine
from tests.engine.toy import ToyEvaluator, ToyLoader, ToyModel, export_toy

model = L(ToyModel)(noise=0.1)
optimizer = L(AdamW)(params=L(param_groups)(weight_decay=0.1), lr=0.05)
lr_multiplier = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=3)
dataloader = dict(
    train=L(ToyLoader)(batch_size=4, seed="${train.seed}"),
    test=L(list)(),
    evaluator=L(ToyEvaluator)(),
)
dataloader["test"] = L(ToyLoader)(batch_size=2, seed=7, length=3)
export = L(export_toy)()
train = dict(max_iter=12, log_period=2, device="cpu", checkpointer=dict(period=4, max_to_keep=2))
"""


class ToyModel(nn.Module):
    """Linear regression with noise of its own, whose loss is a mean over points, of which samples have several."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.noise = noise

    def num_loss_items(self, inputs: list[dict]) -> int:
        return sum(len(x["points"]) for x in inputs)

    def forward(self, inputs: list[dict]) -> dict[str, Tensor] | list[Tensor]:
        if not self.training:
            return [self.linear(x["points"]) for x in inputs]
        points = torch.cat([x["points"] for x in inputs])
        points = points + self.noise * torch.randn(points.shape)
        target = torch.cat([x["points"] @ TRUTH for x in inputs])
        return {"loss_fit": (self.linear(points)[:, 0] - target).square().sum() / max(len(points), 1)}


class SlowModel(ToyModel):
    """Its steps take some time."""

    def __init__(self, noise: float = 0.0, seconds: float = 0.01) -> None:
        super().__init__(noise)
        self.seconds = seconds

    def forward(self, inputs: list[dict]) -> dict[str, Tensor] | list[Tensor]:
        time.sleep(self.seconds)
        return super().forward(inputs)


def sample(draw: int, seed: int = 0) -> dict:
    """One to four points, a function of the seed and the draw."""
    generator = torch.Generator().manual_seed(seed * 100_000 + draw)
    count = int(torch.randint(1, 5, (), generator=generator))
    return {"image_id": draw, "points": torch.randn(count, 3, generator=generator)}


class ToyLoader:
    """Endless batches, or `length` of them; iteration t holds draws t * batch_size and on."""

    def __init__(self, batch_size: int, seed: int, start_iter: int = 0, length: int | None = None) -> None:
        self.batch_size, self.seed, self.start_iter, self.length = batch_size, seed, start_iter, length

    def __len__(self) -> int:
        return self.length or 0

    def __iter__(self) -> Iterator[list[dict]]:
        iteration = self.start_iter
        while self.length is None or iteration < self.length:
            first = iteration * self.batch_size
            yield [sample(draw, self.seed) for draw in range(first, first + self.batch_size)]
            iteration += 1


class ToyEvaluator(DatasetEvaluator):
    """Mean squared error."""

    def reset(self) -> None:
        self.errors: list[Tensor] = []

    def process(self, inputs: list[dict], outputs: list[Tensor]) -> None:
        self.errors += [(y[:, 0] - x["points"] @ TRUTH).square().mean() for x, y in zip(inputs, outputs, strict=True)]

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"fit": {"error": float(torch.stack(self.errors).mean())}}


def export_to_full_disk(model: ToyModel | None = None, path: Path | None = None, card: dict | None = None):
    """An exporter that finds no space."""
    if model is None:
        return export_to_full_disk
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def export_toy(model: ToyModel | None = None, path: Path | None = None, card: dict | None = None):
    """An exporter: without arguments it gives itself, as a config's node does."""
    if model is None:
        return export_toy
    with path.open("wb") as file:
        torch.save({"weights": model.state_dict(), "card": card}, file)
    return None
