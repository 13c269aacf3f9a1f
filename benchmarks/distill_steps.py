"""Training steps of CLIPSelf on the same images and regions each time: ours and the released recipe's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import numpy as np
import reference
import torch
from omegaconf import DictConfig
from torch import Tensor

from clipself_d2.clip.frozen import compile_towers
from clipself_d2.data import DistillationMapper
from clipself_d2.distillation import CLIPSelf
from clipself_d2.engine.config import build
from clipself_d2.regions import pool_boxes

LOSS_TOLERANCE = 0.01  # most that the two losses (1 - cosine) may differ by
LEAST_COSINE = 0.98  # of the two gradients


class Step:
    """A training step on the same images and regions each time.

    Args:
        cfg: a distillation recipe.
        folder: where the images are written.
        args: with `batch`, `device` and `precision`.
    """

    def __init__(self, cfg: DictConfig, folder: Path, args: argparse.Namespace) -> None:
        self.model: CLIPSelf = build(cfg, "model").to(args.device).train()
        self.network: torch.nn.Module = self.model  # or its DistributedDataParallel
        if cfg.train.compile:
            compile_towers(self.model)
        cfg.optimizer.params.model = self.model
        self.optimizer = build(cfg, "optimizer")
        self.records = harness.write_images(folder, args.batch)
        self.mapper = DistillationMapper(build(cfg.dataloader.train.mapper, "regions"))
        self.autocast = harness.autocast(args)

    def __call__(self) -> None:
        """Take the step."""
        with self.autocast:
            loss = self.loss(self.read())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def read(self) -> list[dict[str, Any]]:
        """Read the images and draw their regions."""
        rng = np.random.default_rng(0)
        return [self.mapper(record, rng) for record in self.records]

    def loss(self, samples: list[dict[str, Any]]) -> Tensor:
        """Our loss."""
        return self.network(samples)["loss_clipself"]


class ReferenceStep(Step):
    """The released recipe's step, on the model and optimizer of ours."""

    def __init__(self, ours: Step) -> None:
        vars(self).update(vars(ours))
        self.autocast = torch.autocast(self.model.device.type, enabled=False)

    def __call__(self) -> None:
        """Take the step without anything fused or recomputed."""
        with self._plain():
            super().__call__()

    def loss(self, samples: list[dict[str, Any]]) -> Tensor:
        """The loss of the released arithmetic."""
        size, tower = self.model.student_size, self.model.tower
        images = [x["image"] for x in samples]
        targets = reference.embed_crops(self.model.teacher, images, [x["crop_boxes"].tensor for x in samples])
        pixels = torch.stack([reference.letterbox(image, size) for image in images]).to(self.model.device)
        with reference.plain_attention():
            dense = tower.dense_embeddings(tower.normalize(pixels))
        boxes = [x["regions"].tensor * (size / max(x["image"].shape[1:])) for x in samples]
        return 1 - (pool_boxes(dense, boxes, tower.stride) * targets).sum(dim=-1).mean()

    @contextmanager
    def _plain(self) -> Iterator[None]:
        tower, groups = self.model.tower, self.optimizer.param_groups
        checkpointing, fused = tower.activation_checkpointing, [(g["fused"], g["foreach"]) for g in groups]
        tower.set_activation_checkpointing(False)
        for group in groups:
            group.update(fused=False, foreach=False)
        yield
        tower.set_activation_checkpointing(checkpointing)
        for group, (is_fused, foreach) in zip(groups, fused, strict=True):
            group.update(fused=is_fused, foreach=foreach)


class Student:
    """Forward and backward of the student alone, for given targets."""

    def __init__(self, step: Step) -> None:
        self.model, self.autocast = step.model, step.autocast
        samples = step.read()
        self.images = [x["image"].to(self.model.device) for x in samples]
        self.regions = [x["regions"].tensor for x in samples]
        with self.autocast:
            self.targets = self.model.embed_crops(self.images, [x["crop_boxes"].tensor for x in samples])

    def __call__(self) -> None:
        """Compute the gradients and drop them."""
        with self.autocast:
            (1 - (self.model.embed_regions(self.images, self.regions) * self.targets).sum(dim=-1)).mean().backward()
        self.model.zero_grad(set_to_none=True)

    def flops(self) -> int:
        """Operations of the plain arithmetic on the patches that we read; nothing counts twice."""
        precision, self.autocast = self.autocast, torch.autocast(self.model.device.type, enabled=False)
        tower, checkpointing = self.model.tower, self.model.tower.activation_checkpointing
        tower.set_activation_checkpointing(False)
        with reference.plain_attention():
            count = harness.count_flops(self)
        tower.set_activation_checkpointing(checkpointing)
        self.autocast = precision
        return count


def agree(ours: Step, plain: ReferenceStep) -> dict[str, float]:
    """Compare losses and gradients of one step, ours with the reference's padding.

    Raises:
        RunError: beyond the tolerances.
    """
    model = ours.model
    losses, gradients = [], []
    for step in (ours, plain):
        with harness.with_padding(model), step.autocast:
            loss = step.loss(step.read())
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double())
        model.zero_grad(set_to_none=True)
    return harness.check_agreement(
        loss_difference=(abs(losses[0] - losses[1]), 0, LOSS_TOLERANCE),
        gradient_cosine=(float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)), LEAST_COSINE, 1.001),
    )
