"""Hooks that Detectron2 does not have: checkpoints that survive a kill, an early estimate, and throughput."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.engine.checkpoint import Checkpointer

logger = logging.getLogger(__name__)

_LONG_WAIT = 0.2  # fraction of the time waiting for data above which the log gives advice


class SaveCheckpoint(HookBase):
    """Saves every `period` iterations, before an evaluation, after the last iteration, and where a signal stopped.

    Detectron2's `PeriodicCheckpointer` writes the last state twice, and after a resumption it keeps the checkpoints of
    the interrupted run beside its own.

    Args:
        checkpointer: writes the files.
        period: iterations between checkpoints; 0 for none.
        eval_period: iterations between evaluations, which a signal ends at once; 0 for none.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, eval_period: int = 0) -> None:
        self.checkpointer = checkpointer
        self.periods = [each for each in (period, eval_period) if each > 0]

    def after_step(self) -> None:
        """Save when the number of finished iterations is a multiple of a period, or the last."""
        done = self.trainer.iter + 1
        last = done == self.trainer.max_iter
        if last or any(done % period == 0 for period in self.periods):
            self.checkpointer.save(done, required=last)

    def after_train(self) -> None:
        """Save after a signal, unless nothing has been done; all ranks wait for the file."""
        if self.trainer.stopped:
            if self.trainer.iter > self.trainer.start_iter:
                self.checkpointer.save(self.trainer.iter)
            comm.synchronize()


class EarlyEstimate(HookBase):
    """Logs the speed and the time left after the second step; the periodic lines are late where steps take minutes."""

    def before_step(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Log after the second step; the first one also warms up."""
        left = self.trainer.max_iter - self.trainer.iter - 1
        if left and self.trainer.iter == self.trainer.start_iter + 1:
            seconds = time.perf_counter() - self._start
            logger.info("A step takes %.2f s; about %s left", seconds, timedelta(seconds=round(seconds * left)))


class Throughput(HookBase):
    """Stores `images_per_second` of all ranks and `memory_gib`, the peak of this process (device memory on CUDA).

    After training, it logs the fraction of the time spent waiting for data.
    """

    def after_step(self) -> None:
        """Divide the step's images by the time that `IterationTimer` took for it."""
        storage = self.trainer.storage
        latest = storage.latest()
        if "time" in latest and latest["time"][0] > 0:
            storage.put_scalar("images_per_second", latest["num_images"][0] / latest["time"][0])
        storage.put_scalar("memory_gib", peak_memory(), smoothing_hint=False)

    def after_train(self) -> None:
        """Log the wait for data over the iterations that were timed, and advice for a long one."""
        histories = self.trainer.storage.histories()
        if "time" not in histories or "data_time" not in histories:
            return
        times, waits = (
            {iteration: seconds for seconds, iteration in histories[name].values()} for name in ("time", "data_time")
        )
        share = sum(waits[iteration] for iteration in times) / sum(times.values())
        advice = "; raise dataloader.train.num_workers" if share > _LONG_WAIT else ""
        logger.info("Waited for data %.0f %% of the time%s", 100 * share, advice)


def trim_metrics(path: Path, iteration: int) -> None:
    """Drop the lines of iterations from `iteration` on, which a resumed run writes again, from a `metrics.json`."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["iteration"] < iteration:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # a line cut short by a kill, or damaged
            continue
    write_atomically(path, lambda file: file.write_text("".join(kept)))


def peak_memory() -> float:
    """Peak memory of this process in GiB: allocated on the current CUDA device where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
