"""The tiny CLIP under image-text supervision: captioned samples, and what runs on several ranks."""

from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.clip import build_towers
from clipself_d2.distillation import ImageText
from clipself_d2.engine.trainer import Trainer
from tests.distillation.tiny import Record

WORDS = ("a", "cat", "dog", "two", "red", "chairs", "and", "on", "grass", "near")

# For each step and image, whether it has a caption: uneven halves, a half without any, a whole batch without any.
STEPS = [[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]


def build(model: str, seed: int = 0, **kwargs: Any) -> ImageText:
    """Image-text supervision of the tiny CLIP; the same weights for the same seed."""
    torch.manual_seed(seed)
    return ImageText(*build_towers(model, None), **{"student_size": 64, **kwargs})


def sample(draw: int, captioned: bool = True) -> dict[str, Any]:
    """A training sample with random pixels, size and words, a function of its arguments."""
    rng = np.random.default_rng(draw)
    height, width = (int(x) for x in rng.integers(40, 90, 2))
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    caption = {"caption": " ".join(rng.choice(WORDS, int(rng.integers(3, 9))))} if captioned else {}
    return {"image": image, "image_id": draw, **caption}


def train_share(model_file: str, ranks: int, output: str) -> None:
    """Train on this rank's share of every batch of `STEPS` and save the student's state after every step."""
    torch.set_num_threads(1)
    model: torch.nn.Module = build(model_file)
    rank = comm.get_rank()
    if ranks > 1:
        model = DistributedDataParallel(model)  # find_unused_parameters is False
    share = len(STEPS[0]) // ranks
    batches = [
        [sample(10 * step + i, bool(flags[i])) for i in range(rank * share, (rank + 1) * share)]
        for step, flags in enumerate(STEPS)
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    trainer = Trainer(model, batches, optimizer)
    states: list[dict[str, torch.Tensor]] = []
    trainer.register_hooks([Record(states)])
    trainer.train(0, len(STEPS))
    states = [{name.removeprefix("module."): value for name, value in state.items()} for state in states]
    losses = torch.tensor([value for value, _ in trainer.storage.history("total_loss").values()])
    torch.save({"states": states, "losses": losses}, f"{output}/rank{rank}of{ranks}.pth")
