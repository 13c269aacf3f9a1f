"""The training loop: one optimizer step of any model that turns a list of samples into a dictionary of losses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipself_d2.engine.errors import NonFiniteLossError
from clipself_d2.engine.signals import StopRequest
from clipself_d2.errors import Interrupted

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepStorage(EventStorage):
    """Detectron2's storage, but tensors stay on their device until a step's one copy to the host."""

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self.waiting: dict[str, Tensor] = {}

    def put_scalar(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Store a number, or keep a tensor of one element for the step's copy."""
        if isinstance(value, Tensor):
            self.waiting[name] = value.detach()
        else:
            super().put_scalar(name, value, *args, **kwargs)


class Trainer(TrainerBase):
    """Runs `model(list[dict]) -> dict[str, scalar]` over a loader, one optimizer step per iteration.

    Each iteration seeds torch from `(seed, iteration, rank)`: a resumed run repeats an uninterrupted one to the bit.

    A model's loss is the mean over the loss items of its inputs: images, or what its method
    `num_loss_items(list[dict]) -> int` counts (regions for CLIPSelf). The trainer weights ranks, and the chunks of
    gradient accumulation, by their items: the gradient is that of the mean over the batch of all ranks.

    Args:
        model: wrapped in `DistributedDataParallel` when there are several ranks.
        data_loader: yields this rank's `list[dict]`, of the same length on each rank; its `num_unreadable`, if any, is
            logged as `unreadable_images`.
        optimizer: its parameter groups hold the trainable parameters.
        seed: of everything random inside the model.
        precision: "fp32", or autocast in "bf16" or "fp16" (with gradient scaling).
        accumulate: number of chunks that a rank's batch is cut into to save memory, at least 1.
        clip_grad_norm: largest global gradient norm, or None for no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        seed: int = 0,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.seed = seed
        self.precision = precision
        self.accumulate = accumulate
        self.clip_grad_norm = clip_grad_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.stop_request = StopRequest()
        self.stopped = False
        self._batches: Iterator[list[dict[str, Any]]] | None = None

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter` to `max_iter - 1`; hooks find `self.iter == max_iter` only after success.

        Raises:
            Interrupted: a signal came to any rank. All ranks have finished the same `self.iter` iterations, and
                `self.stopped` is True.
            NonFiniteLossError: a loss or a gradient is NaN or infinite.
        """
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.model.train()
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with self.stop_request, StepStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max_iter
            finally:
                self.after_train()

    def run_step(self) -> None:
        """Read a batch, add up the gradients of its chunks, and update the weights; or stop before that on a signal."""
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start
        torch.manual_seed(step_seed(self.seed, self.iter, comm.get_rank()))

        chunks = split(batch, self.accumulate) if batch else []
        weights, unreadable, stop = self._agree(chunks)
        if stop:
            self.stopped = True
            raise Interrupted(max(comm.all_gather(self.stop_request.signum)), f"after {self.iter} iterations")
        num_images = len(batch) * comm.get_world_size()
        self.storage.put_scalars(
            data_time=data_time, num_images=num_images, unreadable_images=unreadable, smoothing_hint=False
        )
        losses: dict[str, Tensor] = {}
        for i, chunk in enumerate(chunks):
            with self._autocast(), self._synchronize_gradients(i == len(chunks) - 1):
                chunk_losses = self.model(chunk)
                total = sum(chunk_losses.values()) * weights[i]
                self.grad_scaler.scale(total).backward()
            for name, loss in chunk_losses.items():
                losses[name] = losses.get(name, 0) + loss.detach().float() * weights[i]
        self.after_backward()
        self._update(losses, batch)
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The gradient scaler's state. That of Detectron2's hooks follows from the iteration."""
        return {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; ValueError for something else."""
        state = state_dict["grad_scaler"]
        if not all(isinstance(value, int | float) for value in state.values()):
            raise ValueError(f"the gradient scaler's state is {state!r:.80}")
        if self.grad_scaler.is_enabled() and state:
            self.grad_scaler.load_state_dict(state)

    def _next_batch(self) -> list[dict[str, Any]]:
        """The next batch; an empty one after a signal, which makes all ranks stop before the step."""
        if self._batches is None:
            self._batches = iter(self.data_loader)
        try:
            return [] if self.stop_request.signum else next(self._batches)
        except RuntimeError:  # the signal may have ended the processes that read images
            if not self.stop_request.signum:
                raise
            return []

    def _agree(self, chunks: Sequence[list[dict[str, Any]]]) -> tuple[list[float], int, bool]:
        """Exchange, in the one small reduction of a step, what ranks must know of each other.

        Returns:
            The weights of this rank's chunks, which average to 1 / len(chunks) over all ranks' chunks; the number of
            unreadable images on all ranks; whether a signal came to any rank. Gradients are averaged over ranks, hence
            the factor `world_size`.
        """
        num_items = getattr(unwrap(self.model), "num_loss_items", len)
        items = [num_items(chunk) for chunk in chunks]
        unreadable = getattr(self.data_loader, "num_unreadable", 0)
        sums = torch.tensor([sum(items), unreadable, self.stop_request.signum], dtype=torch.float64)
        if comm.get_world_size() > 1:
            sums = reduce_sum(sums.to(self.device))
        total, unreadable, stop = sums.tolist()
        return [count * comm.get_world_size() / max(total, 1) for count in items], int(unreadable), stop > 0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision], enabled=self.precision != "fp32")

    def _synchronize_gradients(self, enabled: bool) -> Any:
        """Ranks exchange gradients once per step, in the backward pass of the last chunk."""
        if enabled or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _update(self, losses: dict[str, Tensor], batch: Sequence[dict[str, Any]]) -> None:
        """Check, clip, step and log. Nothing that is not finite reaches the weights.

        This has the only copy from the device of a step: losses, gradient norm and the scalars of the storage.
        """
        self.grad_scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm or math.inf)
        names = list(losses)
        means = reduce_sum(torch.stack([losses[name] for name in names] + [norm.float()])) / comm.get_world_size()
        logged, self.storage.waiting = self.storage.waiting, {}
        numbers = torch.cat([means, *(value.float().view(1) for value in logged.values())]).tolist()
        values, grad_norm = numbers[: len(names)], numbers[len(names)]
        # With fp16 the scaler skips a step whose gradients overflow and lowers its scale: that is no error.
        if not np.isfinite(values).all() or not (np.isfinite(grad_norm) or self.grad_scaler.is_enabled()):
            raise NonFiniteLossError(self._describe(dict(zip(names, values, strict=True)), grad_norm, batch))
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.storage.put_scalars(**dict(zip(logged, numbers[len(names) + 1 :], strict=True)))
        self.storage.put_scalars(total_loss=sum(values), grad_norm=grad_norm)
        if len(names) > 1:
            self.storage.put_scalars(**dict(zip(names, values, strict=True)))

    def _describe(self, losses: dict[str, float], grad_norm: float, batch: Sequence[dict[str, Any]]) -> str:
        ids = [sample.get("image_id", sample.get("file_name", "?")) for sample in batch]
        ids = [image_id for rank_ids in comm.all_gather(ids) for image_id in rank_ids]
        text = ", ".join(f"{name} = {value:.4g}" for name, value in losses.items())
        return f"iteration {self.iter}: {text}, gradient norm = {grad_norm:.4g}; image ids of the batch: {ids}"


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """A 64-bit seed that is a function of the three numbers and close to none of their neighbours'."""
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0])


def split(batch: list[dict[str, Any]], parts: int) -> list[list[dict[str, Any]]]:
    """Cut a batch into `parts` chunks in order, of about equal lengths; a shorter batch into one chunk per sample."""
    parts = min(parts, len(batch))
    ends = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[start:end] for start, end in pairwise(ends)]


def reduce_sum(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, on every rank."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
    return values


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel`, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model
