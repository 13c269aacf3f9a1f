"""A CLIP of a few thousand parameters, drawn images, and what runs on several ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.structures import Boxes
from detectron2.utils import comm
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.clip import build_image_tower
from clipself_d2.distillation import CLIPSelf
from clipself_d2.engine.trainer import Trainer

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_model(folder: Path) -> str:
    """The JSON config of the tiny CLIP."""
    path = folder / "tiny-student.json"
    path.write_text(json.dumps(VIT))
    return str(path)


def build(model: str, seed: int = 0, **kwargs: Any) -> CLIPSelf:
    """CLIPSelf on the tiny CLIP; the same weights for the same seed."""
    torch.manual_seed(seed)
    return CLIPSelf(build_image_tower(model, None), **{"student_size": 64, "teacher_size": 32, **kwargs})


def perturb(model: CLIPSelf, seed: int = 1) -> CLIPSelf:
    """Move the student away from the teacher."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def sample(draw: int, regions: int) -> dict[str, Any]:
    """A training sample with random pixels, size and boxes, a function of its arguments."""
    rng = np.random.default_rng([draw, regions])
    height, width = (int(x) for x in rng.integers(40, 90, 2))
    corners = rng.uniform(0, 0.5, (regions, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.3, 0.5, (regions, 2))], axis=1)
    boxes = torch.tensor(boxes * [width, height, width, height], dtype=torch.float32).reshape(-1, 4)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "image_id": draw, "regions": Boxes(boxes), "crop_boxes": Boxes(boxes.round())}


def write_photographs(folder: Path, count: int = 12) -> None:
    """A COCO layout with drawn images, for `DETECTRON2_DATASETS`."""
    images = folder / "coco/unlabeled2017"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60 + i, 50)).save(images / f"{i:012d}.jpg")


# Regions of the images of each step's batch: uneven, a half without any, a whole batch without any.
STEPS = [[3, 1, 4, 2], [5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 7], [1, 1, 1, 1]]


class Record(HookBase):
    """Keeps the state after every step."""

    def __init__(self, states: list[dict[str, torch.Tensor]]) -> None:
        self.states = states

    def after_step(self) -> None:
        self.states.append({name: value.clone() for name, value in self.trainer.model.state_dict().items()})


def train_shares(
    model_file: str,
    ranks: int,
    output: str,
    build: Callable[[str], torch.nn.Module] = build,
    sample: Callable[[int, int], dict[str, Any]] = sample,
) -> None:
    """Train with and without accumulation, and save the student's state after every step."""
    torch.set_num_threads(1)
    for accumulate in (1, 2):
        model = build(model_file)
        if ranks > 1:
            model = DistributedDataParallel(model)  # find_unused_parameters is False
        states = train_share(model, sample, ranks, accumulate)
        torch.save(states, f"{output}/rank{comm.get_rank()}of{ranks}x{accumulate}.pth")


def train_share(
    model: torch.nn.Module, sample: Callable[[int, int], dict[str, Any]], ranks: int, accumulate: int
) -> list[dict[str, torch.Tensor]]:
    """Train on this rank's share of every batch of `STEPS`; returns the student's state after every step."""
    rank, share = comm.get_rank(), len(STEPS[0]) // ranks
    batches = [
        [sample(10 * step + i, counts[i]) for i in range(rank * share, (rank + 1) * share)]
        for step, counts in enumerate(STEPS)
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    trainer = Trainer(model, batches, optimizer, accumulate=accumulate)
    states: list[dict[str, torch.Tensor]] = []
    trainer.register_hooks([Record(states)])
    trainer.train(0, len(STEPS))
    return [{name.removeprefix("module."): value for name, value in state.items()} for state in states]
