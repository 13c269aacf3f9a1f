"""The output folder: one run at a time, without what killed runs left behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipself_d2.errors import InputError

_TEMPORARY = (".checkpoint_*", ".last_checkpoint.*", ".config.yaml.*", ".metrics.json.*", ".results.json.*", ".tower.*")
_WAIT_S = 5.0  # the ranks of a run that was killed need a moment to end


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder, keep other runs out of it within the block, and remove the temporary files of killed runs.

    The lock belongs to this process alone and ends with it, however it ends.

    Raises:
        InputError: another process holds the folder; the line has its process id.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(f"train.output_dir={folder}: cannot be made or written to ({error})") from error
    with file:
        _lock(folder, file.fileno())
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        for leftover in [path for pattern in _TEMPORARY for path in folder.glob(pattern) if path.is_file()]:
            leftover.unlink(missing_ok=True)
        yield


def _lock(folder: Path, file: int) -> None:
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > end:
                pid = os.pread(file, 20, 0).decode(errors="replace")
                raise InputError(
                    f"{folder}: another run (process {pid}) is writing there; wait for it, or pass another "
                    "train.output_dir"
                ) from None
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return None
