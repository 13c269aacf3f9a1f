"""Signals that stop a training: after the step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from detectron2.utils import comm

from clipself_d2.command_line import end_by, signal_handlers

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# A rank may get one signal twice: from the terminal or SLURM, and from the process that started it.
_SAME_SIGNAL_S = 0.5


class StopRequest:
    """Within the block, the first SIGTERM, SIGINT or SIGUSR1 is noted; a second one ends the process at once.

    Attributes:
        signum: the first signal; 0 as long as none came.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._noted_at = 0.0

    def __enter__(self) -> StopRequest:
        self._handlers = signal_handlers(SIGNALS, self._note)
        self._handlers.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._handlers.__exit__(None, None, None)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within the block, signals do what they did before: there is no step to finish."""
        self.__exit__(None, None, None)
        try:
            if self.signum:
                os.kill(os.getpid(), self.signum)
            yield
        finally:
            self.__enter__()

    def _note(self, signum: int) -> None:
        now = time.monotonic()
        if not self.signum:
            self.signum, self._noted_at = signum, now
        elif comm.get_world_size() == 1 or now - self._noted_at > _SAME_SIGNAL_S:
            end_by(signum)
