"""What ends a tool in one line; `command_line.exit_codes` gives each its exit code."""

from __future__ import annotations

import argparse
import errno
import re
import signal
from importlib.util import find_spec


class InputError(argparse.ArgumentTypeError, ValueError):
    """A wrong argument, file or config, in one line: which file, which field, and how to fix it.

    Tools print the line and exit with code 2; anything else that escapes a tool is a bug. A function that raises it can
    be the `type` of an argument.
    """


class RunError(Exception):
    """A run cannot go on although its input was correct, in one line. Tools print it and exit with code 1."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run. Tools exit with code 128 + the signal's number, as shells say it.

    Args:
        signum: the signal.
        done: what had been finished, for the printed line.
    """

    def __init__(self, signum: int, done: str = "") -> None:
        super().__init__(signum, done)
        self.signum = signum
        self.done = done

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"stopped by {name}{' ' if self.done else ''}{self.done}"


def lack_of_resources(error: BaseException) -> RunError | None:
    """The line for a lack of memory, or for a process that the system ended; None for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return RunError(
            f"a process that reads images ended ({text[:120]}): memory may be short; lower "
            "dataloader.train.num_workers (in an evaluation dataloader.test.num_workers)"
        )
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", text))
    ):
        return RunError(
            f"out of memory ({text[:120] or 'MemoryError'}): lower the batch (dataloader.train.total_batch_size, in an "
            "evaluation dataloader.test.batch_size) or the image size; in training also raise train.accumulate, or "
            "pass train.activation_checkpointing=true; docs/scaling.md has what each size takes"
            f"{', and nvidia-smi shows who else uses the GPU' if 'CUDA' in text else ''}"
        )
    return None


def first_line(error: BaseException) -> str:
    """Another library's message within a line of ours: its first line that is not empty, or the error's type."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def require(module: str, extra: str, purpose: str) -> None:
    """Raise an InputError that names an extra of this package, unless the module that it installs is there.

    Args:
        module: what is imported.
        extra: of pyproject.toml.
        purpose: what needs it, the subject of the sentence.
    """
    if find_spec(module) is None:
        raise InputError(f"{purpose} needs the package {module}: pip install 'clipself_d2[{extra}]'")
