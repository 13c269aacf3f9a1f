"""What happens around the steps: checkpoints, evaluation, export, and what is measured, logged and written."""

from __future__ import annotations

import json
import logging
import resource
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.engine.checkpoint import Checkpointer

logger = logging.getLogger(__name__)

_LONG_WAIT = 0.2  # share of the time that waiting for data may take before the log says what to do


class SaveCheckpoint(HookBase):
    """Saves every `period` iterations and after the last one, which must succeed.

    Register it after the hooks that hold state.
    """

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer = checkpointer
        self.period = period

    def after_step(self) -> None:
        """Save when the number of finished iterations is a multiple of the period, or the last."""
        done = self.trainer.iter + 1
        last = done == self.trainer.max_iter
        if last or (self.period > 0 and done % self.period == 0):
            self.checkpointer.save(done, required=last)


class Evaluate(HookBase):
    """Calls `evaluate() -> {task: {metric: value}}` on every rank, every `period` iterations and after the last one."""

    def __init__(self, evaluate: Callable[[], dict[str, Any]], period: int) -> None:
        self.evaluate = evaluate
        self.period = period

    def after_step(self) -> None:
        """Evaluate between iterations; the end of training is `after_train`'s."""
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        """Evaluate the finished model; a run that failed is not evaluated."""
        if self.trainer.iter == self.trainer.max_iter:
            self._run()

    def _run(self) -> None:
        results = flatten_results_dict(self.evaluate())
        self.trainer.storage.put_scalars(**results, smoothing_hint=False)
        comm.synchronize()  # ranks take different times; start the next iteration together


class AfterTraining(HookBase):
    """Calls a function once on rank 0 when training has succeeded (an export)."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def after_train(self) -> None:
        """Call the function unless training failed."""
        if comm.is_main_process() and self.trainer.iter == self.trainer.max_iter:
            self.function()


class Throughput(HookBase):
    """Stores `images_per_second` of all ranks and `memory_gib`, the peak of this process (device memory on CUDA).

    When training ends it logs which share of the time this process waited for data.
    """

    def after_step(self) -> None:
        """Divide the step's images by the time that `IterationTimer` took for it."""
        storage = self.trainer.storage
        latest = storage.latest()
        if "time" in latest and latest["time"][0] > 0:
            speed = latest["num_images"][0] / latest["time"][0]
            storage.put_scalar("images_per_second", speed)
        storage.put_scalar("memory_gib", peak_memory(), smoothing_hint=False)

    def after_train(self) -> None:
        """Log the wait for data over the iterations that were timed, and what to do about a long one."""
        histories = self.trainer.storage.histories()
        if "time" not in histories or "data_time" not in histories:
            return
        times, waits = (
            {iteration: seconds for seconds, iteration in histories[name].values()} for name in ("time", "data_time")
        )
        share = sum(waits[iteration] for iteration in times) / sum(times.values())
        mend = "; raise dataloader.train.num_workers" if share > _LONG_WAIT else ""
        logger.info("Waited for data %.0f %% of the time%s", 100 * share, mend)


class ProgressPrinter(EventWriter):
    """Logs one line: iteration, time left, losses, learning rate, images a second, share of time spent on data, memory,
    and how many images were unreadable, if any.

    Args:
        max_iter: number of iterations of the run.
        window: iterations whose median is printed.
    """

    def __init__(self, max_iter: int, window: int = 20) -> None:
        self.max_iter = max_iter
        self.window = window
        self._last_written = -1

    def write(self) -> None:
        """Log the line of the current iteration, once."""
        storage = get_event_storage()
        if storage.iter >= self.max_iter or storage.iter == self._last_written:
            return
        self._last_written = storage.iter
        logger.info("  ".join(self._fields(storage)))

    def _fields(self, storage: EventStorage) -> list[str]:
        histories = storage.histories()

        def median(name: str) -> float:
            return histories[name].median(storage.count_samples(name, self.window))

        fields = [f"iter {storage.iter + 1}/{self.max_iter}"]
        if "time" in histories:
            left = median("time") * (self.max_iter - storage.iter - 1)
            fields.append(f"eta {timedelta(seconds=int(left))}")
        fields += [f"{name} {median(name):.4g}" for name in histories if "loss" in name]
        if "lr" in histories:
            fields.append(f"lr {histories['lr'].latest():.3g}")
        if "images_per_second" in histories:
            fields.append(f"{median('images_per_second'):.3g} images/s")
            fields.append(f"data {100 * median('data_time') / median('time'):.0f} %")
        if "memory_gib" in histories:
            fields.append(f"memory {histories['memory_gib'].latest():.2f} GiB")
        if "unreadable_images" in histories and (unreadable := histories["unreadable_images"].latest()):
            fields.append(f"{unreadable:.0f} unreadable images replaced")
        return fields


def trim_metrics(path: Path, iteration: int) -> None:
    """Drop from a `metrics.json` the lines of iterations from `iteration` on, which a resumed run writes again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] < iteration:
                kept.append(line + "\n")
        except ValueError:  # a line cut short by a kill
            continue
    write_atomically(path, lambda file: file.write_text("".join(kept)))


def peak_memory() -> float:
    """Peak memory of this process in GiB: allocated on the current CUDA device where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
