"""A whole step of CLIPSelf (data, teacher, student, update) against the released recipe's arithmetic."""

from __future__ import annotations

import argparse
import copy
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from clipself_d2.benchmark import plain
from clipself_d2.benchmark.arguments import IMAGE, add_common, autocast, check_at_least, random_config
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory
from clipself_d2.data import DistillationMapper
from clipself_d2.distillation import CLIPSelf
from clipself_d2.distillation.teacher_cache import TeacherCache
from clipself_d2.engine.config import build
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import RunError
from clipself_d2.regions import LetterboxedImages, dense_features, pool_boxes

CONFIGS = {
    "EVA02-B-16": "distillation/clipself_eva02_b16_coco_patches.py",
    "EVA02-L-14-336": "distillation/clipself_eva02_l14_336_coco_patches.py",
    "ViT-B-16-quickgelu": "distillation/clipself_openai_b16_coco_patches.py",
    "ViT-L-14-336-quickgelu": "distillation/clipself_openai_l14_336_coco_patches.py",
}

LOSS_TOLERANCE = 0.01
"""Most that the two paths' losses may differ by, with the same letterbox; the loss is 1 - cosine."""
GRADIENT_TOLERANCE = 0.02
"""Most that the cosine of their gradients may fall short of 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line may say."""
    add_common(parser, f"one of {', '.join(CONFIGS)}")
    add = parser.add_argument
    add("--size", type=int, metavar="PIXELS", help="side of the student's square (the config's)")
    add("opts", nargs="*", metavar="key=value", help="overrides: model.activation_checkpointing=true")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, with random weights, on photographs of noise.

    Args:
        args: what `add_arguments` declares, and `device`.

    Returns:
        Seconds of a step: `ours`, `cached` (the same with all teacher embeddings on disk), `reference` (the square
        letterbox, attention with its matrix, fp32, crops cut by Pillow and sent through the teacher one by one, AdamW
        parameter by parameter); `ratio` and `ratio_cached`, the reference's seconds over them; `peak_fraction`, the
        operations of the student's plain arithmetic on our tokens, forward and backward, a second of our student, over
        `peak_flops`; `peak_memory_bytes`, weights and optimiser included; `parts` of ours; `agreement`; `settings`.

    Raises:
        InputError: for an unknown model or override, or a number out of its range.
        RunError: the two paths do not agree.
    """
    cfg = load_distillation_config(args)
    torch.manual_seed(0)
    model: CLIPSelf = build(cfg, "model").to(args.device).train()
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    flops = student_flops(model, args.batch)
    with tempfile.TemporaryDirectory() as folder:
        photographs = write_photographs(Path(folder), args.batch)
        mapper = DistillationMapper(build(cfg.dataloader.train.mapper, "regions"))
        precision = autocast(args)
        ours = Step(model, optimizer, photographs, mapper, precision)
        cached = Step(model, optimizer, photographs, mapper, precision, TeacherCache(f"{folder}/cache"))
        cached()  # fills it
        reference = ReferenceStep(model, optimizer, photographs, mapper)
        agreement = agree(ours, reference)
        calls = {"ours": ours, "cached": cached, "reference": reference}
        seconds = medians(calls, args.device, args.rounds)
        parts = Parts({name: (ours, name) for name in Step.PARTS}, args.device)(ours, args.rounds)
        memory = {name: peak_memory(call, args.device) for name, call in calls.items()}
    attainable = peak_flops(args.device, PRECISIONS[args.precision])
    said = ("model", "batch", "precision", "rounds", "opts")
    return {
        **seconds,
        "ratio": seconds["reference"] / seconds["ours"],
        "ratio_cached": seconds["reference"] / seconds["cached"],
        "peak_fraction": flops / (parts["student"] + parts["backward"]) / attainable,
        "peak_flops": attainable,
        "peak_memory_bytes": memory,
        "flops": {"student": flops},
        "parts": parts,
        "agreement": agreement,
        "settings": {"size": model.student_size, "image": list(IMAGE), **{name: getattr(args, name) for name in said}},
    }


class Step:
    """Our step, in parts that can be timed."""

    PARTS = ("data", "teacher", "student", "backward", "update")

    def __init__(
        self,
        model: CLIPSelf,
        optimizer: torch.optim.Optimizer,
        photographs: list[Path],
        mapper: Any,
        precision: Any,
        cache: TeacherCache | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.mapper = mapper
        self.precision = precision
        self.cache = cache
        self.records = [{"file_name": str(path), "image_id": i} for i, path in enumerate(photographs)]
        if cache is not None:
            cache.attach(model.teacher, model.teacher_size)
            with precision:
                cache.open(self.records, mapper)

    def __call__(self) -> None:
        """All parts, one after the other."""
        samples = self.data()
        with self.precision:
            targets = self.teacher(samples)
            loss = self.student(samples, targets)
        self.backward(loss)
        self.update()

    def data(self) -> list[dict[str, Any]]:
        """Read the photographs and draw their regions, the same in every round."""
        rng = np.random.default_rng(0)
        return [self.mapper(record, rng) for record in self.records]

    def teacher(self, samples: list[dict[str, Any]]) -> Tensor:
        """Embeddings of the crops."""
        self.model.teacher_cache = self.cache
        return self.model.embed_crops([x["image"] for x in samples], [x["crop_boxes"].tensor for x in samples], samples)

    def student(self, samples: list[dict[str, Any]], targets: Tensor) -> Tensor:
        """The loss."""
        images = [x["image"].to(self.model.device, non_blocking=True) for x in samples]
        ours = self.model.embed_regions(images, [x["regions"].tensor for x in samples])
        return 1 - (ours * targets).sum(dim=-1).mean()

    def backward(self, loss: Tensor) -> None:
        """The gradients."""
        loss.backward()

    def update(self) -> None:
        """The optimiser's step."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class ReferenceStep(Step):
    """The released recipe's arithmetic, plainly."""

    def __init__(self, model: CLIPSelf, optimizer: torch.optim.Optimizer, photographs: list[Path], mapper: Any) -> None:
        super().__init__(model, optimizer, photographs, mapper, nullcontext())

    def __call__(self) -> None:
        """All parts, without anything fused; afterwards optimiser and tower are as they were."""
        tower, groups = self.model.tower, self.optimizer.param_groups
        checkpointing, settings = tower.activation_checkpointing, [(g["fused"], g["foreach"]) for g in groups]
        tower.set_activation_checkpointing(False)
        for group in groups:
            group.update(fused=False, foreach=False)
        with plain.naive_attention():
            super().__call__()
        tower.set_activation_checkpointing(checkpointing)
        for group, (fused, foreach) in zip(groups, settings, strict=True):
            group.update(fused=fused, foreach=foreach)

    def teacher(self, samples: list[dict[str, Any]]) -> Tensor:
        """Crop by crop."""
        boxes = [x["crop_boxes"].tensor for x in samples]
        return plain.embed_crops(self.model.teacher, [x["image"] for x in samples], boxes)

    def student(self, samples: list[dict[str, Any]], targets: Tensor) -> Tensor:
        """The whole square."""
        size, tower = self.model.student_size, self.model.tower
        photographs = [Image.fromarray(x["image"].permute(1, 2, 0).numpy()) for x in samples]
        pixels = torch.stack([plain.letterbox(photograph, size) for photograph in photographs])
        dense = tower.dense_embeddings(tower.normalize(pixels.to(self.model.device)))
        boxes = [x["regions"].tensor * (size / max(x["image"].shape[1:])) for x in samples]
        return 1 - (pool_boxes(dense, boxes, tower.stride) * targets).sum(dim=-1).mean()


def agree(ours: Step, reference: ReferenceStep) -> dict[str, float]:
    """One step of each without an update, ours with the reference's letterbox: what the losses differ by, and the
    cosine of the gradients.

    Raises:
        RunError: beyond the tolerances.
    """
    model = ours.model
    fit, model.skip_padding = model.skip_padding, False
    losses, gradients = [], []
    for step in (ours, reference):
        samples = step.data()
        with step.precision, plain.naive_attention() if step is reference else torch.enable_grad():
            loss = step.student(samples, step.teacher(samples))
            loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad(set_to_none=True)
    model.skip_padding = fit
    difference = abs(losses[0] - losses[1])
    cosine = float(torch.cosine_similarity(gradients[0].double(), gradients[1].double(), dim=0))
    if not difference <= LOSS_TOLERANCE or not cosine >= 1 - GRADIENT_TOLERANCE:
        raise RunError(
            f"ours and the reference do not agree: losses {losses[0]:.4f} and {losses[1]:.4f} "
            f"(may differ by {LOSS_TOLERANCE}), cosine of the gradients {cosine:.4f} "
            f"(at least {1 - GRADIENT_TOLERANCE})"
        )
    return {"loss_difference": difference, "gradient_cosine": cosine}


def student_flops(model: CLIPSelf, batch: int) -> int:
    """Operations of a student's forward and backward on the patches that we read, attention not computed twice."""
    tower = copy.deepcopy(model.tower).to("meta")
    tower.set_activation_checkpointing(False)
    pixels = torch.empty(batch, 3, model.student_size, model.student_size, device="meta")
    scale = model.student_size / max(IMAGE)
    images = LetterboxedImages(pixels, [scale] * batch, [(IMAGE[0] * scale, IMAGE[1] * scale)] * batch)
    with plain.naive_attention():
        options = {"dense_mode": model.dense_mode, "skip_padding": model.skip_padding}
        return count_flops(lambda: dense_features(tower, images, **options).dense.sum().backward())


def write_photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs of smooth noise, of a photograph's size in bytes."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (IMAGE[0] // 8, IMAGE[1] // 8, 3), dtype=np.uint8))
        coarse.resize(IMAGE[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def load_distillation_config(args: argparse.Namespace) -> DictConfig:
    """The config of a distillation with random weights."""
    check_at_least(args, batch=1, rounds=1)
    return random_config(args, CONFIGS, "model.student_size")
