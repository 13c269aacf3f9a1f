"""Signals that stop a training: after the step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from detectron2.utils import comm

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
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():  # only that one may set handlers
            self._before = {each: signal.signal(each, self._note) for each in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

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

    def _note(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        ours = os.getpid() == self._pid  # and not a fork's, such as a process that reads images
        if ours and not self.signum:
            self.signum, self._noted_at = signum, now
        elif not ours or comm.get_world_size() == 1 or now - self._noted_at > _SAME_SIGNAL_S:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
