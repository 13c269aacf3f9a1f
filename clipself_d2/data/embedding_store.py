"""A store of embeddings on disk for any number of processes at once, on one machine or many.

A store is a folder of immutable shards (see `embedding_shard`), each written under another name and then renamed: what
a process that dies leaves behind is never read. Shards are merged only when a lock tells that nobody else has the
folder open; the kernel frees the lock of a process that dies, and where a file system has no locks nothing is merged.
So a file that somebody reads never goes away, on a shared file system neither.
"""

from __future__ import annotations

import fcntl
import logging
import resource
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipself_d2.data.embedding_shard import (
    HEADER_BYTES,
    SUFFIX,
    DamagedShardError,
    Shard,
    bytes_of_rows,
    merge_shards,
    split_keys,
    write_shard,
)
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

_MERGED_ROWS = 2**20  # of a merged shard, about; shards from half of that on are left alone
_FEW_SHARDS = 16  # smaller ones that are not worth merging


class EmbeddingStore:
    """Embeddings of C numbers in fp16 by keys of 16 bytes; each process opens its own store of a folder.

    What is added is held in memory and written as a shard when there are `shard_rows` of it, by `flush`, and when the
    store or the process ends; a process that is killed loses what it held. Keys are found in what this process added
    and in the shards of all, also in those that others write in the meantime.
    """

    def __init__(
        self,
        root: str | Path,
        name: str,
        dim: int,
        budget_bytes: float,
        *,
        shard_rows: int = 2**16,
        refresh_seconds: float = 60.0,
    ) -> None:
        """Opens `root/name`, or makes it.

        Args:
            root: folder of stores that share a budget.
            name: this store.
            dim: C.
            budget_bytes: most bytes of all shards below `root`. Each of several writers may exceed it by one shard, and
                a merge by one while it lasts.
            shard_rows: most embeddings held in memory.
            refresh_seconds: a key that is not found makes the store look for new shards, not more often than this.

        Raises:
            InputError: if the folder cannot be written to, or holds embeddings of another length.
        """
        _allow_many_files()
        self.folder = Path(root) / name
        self.dim = dim
        self.refresh_seconds = refresh_seconds
        self._writer = _Writer(self.folder, budget_bytes, shard_rows)
        self._shards: dict[str, Shard | None] = {}  # by the file's name; None: damaged
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("a+b")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written to ({error.strerror}): name another folder") from error
        if _lock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._tidy()
        _lock(self._lock, fcntl.LOCK_SH)
        self._refresh()
        weakref.finalize(self, self._writer.flush)

    @property
    def full(self) -> bool:
        """Nothing more is added, for the budget is used up or the disk refuses."""
        return self._writer.full

    def __len__(self) -> int:
        """Number of embeddings, one that is in several shards counted as often."""
        return sum(len(shard.rows) for shard in self._sound()) + len(self._writer.held)

    def get(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Looks up keys.

        Args:
            keys: N of 16 bytes each.

        Returns:
            N x C fp16 rows, zeros where there is none, and N bool: whether it was found.
        """
        rows, found = np.zeros((len(keys), self.dim), np.float16), np.zeros(len(keys), bool)
        halves = split_keys(keys)
        self._read(self._sound(), halves, rows, found)
        for i in np.flatnonzero(~found):
            if (row := self._writer.held.get(keys[i])) is not None:
                rows[i], found[i] = row, True
        if not found.all() and time.monotonic() - self._refreshed >= self.refresh_seconds:
            self._read(self._refresh(), halves, rows, found)
        return rows, found

    def add(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Adds N x C fp16 rows, unless the store is full."""
        if self._writer.add(keys, rows):
            self.flush()

    def flush(self) -> None:
        """Writes what is held in memory."""
        if path := self._writer.flush():
            with suppress(OSError):  # the next refresh tells
                self._open(path)

    def _read(self, shards: Iterable[Shard], halves: np.ndarray, rows: np.ndarray, found: np.ndarray) -> None:
        for shard in shards:
            wanted = np.flatnonzero(~found)
            if not len(wanted):
                return
            try:
                there, values = shard.get(halves[wanted])
            except DamagedShardError as error:
                self._leave_out(shard.path, error)
                continue
            rows[wanted[there]], found[wanted[there]] = values, True

    def _sound(self) -> list[Shard]:
        return [shard for shard in self._shards.values() if shard is not None]

    def _refresh(self) -> list[Shard]:
        """Opens the shards that are not open yet; returns them. What cannot be opened is tried again the next time."""
        self._refreshed = time.monotonic()
        unknown = [path for path in _paths(self.folder) if path.name not in self._shards]
        opened: list[Shard | None] = []
        try:
            opened.extend(self._open(path) for path in unknown)
        except OSError as error:
            text = "%s: %d of %d shards are open, the next cannot be (%s); goes on without"
            logger.warning(text, self.folder, len(self._shards), len(self._shards) + len(unknown) - len(opened), error)
        return [shard for shard in opened if shard is not None]

    def _open(self, path: Path) -> Shard | None:
        try:
            shard = Shard(path)
        except DamagedShardError as error:
            self._leave_out(path, error)
            return None
        if shard.rows.shape[1] != self.dim:
            raise InputError(
                f"{path}: holds embeddings of {shard.rows.shape[1]} numbers, not {self.dim}: name another folder"
            )
        self._shards[path.name] = shard
        return shard

    def _leave_out(self, path: Path, error: DamagedShardError) -> None:
        self._shards[path.name] = None
        logger.warning("%s: %s; left out, remove it", path, error)

    def _tidy(self) -> None:
        """Merges small shards and removes what killed writers left; for whoever has the folder alone."""
        for path in self.folder.glob(f".*{SUFFIX}"):
            path.unlink(missing_ok=True)
        if len(_paths(self.folder)) <= _FEW_SHARDS:
            return
        self._refresh()
        small = [shard for shard in self._sound() if len(shard.rows) < _MERGED_ROWS // 2]
        if len(small) > _FEW_SHARDS:
            try:
                self._merge(small)
            except OSError as error:  # a full disk; it goes without
                logger.warning("%s: shards are not merged (%s)", self.folder, error)
        # Opened anew when the lock is a reader's: in between others may merge.
        self._shards = {name: None for name, shard in self._shards.items() if shard is None}

    def _merge(self, shards: list[Shard]) -> None:
        sound = []
        for shard in shards:
            try:
                shard.verify()
                sound.append(shard)
            except DamagedShardError as error:
                self._leave_out(shard.path, error)
        ends = np.cumsum([len(shard.rows) for shard in sound])
        for _, numbers in groupby(range(len(sound)), key=lambda i: ends[i] // _MERGED_ROWS):
            group = [sound[i] for i in numbers]
            if len(group) > 1:
                merge_shards(self.folder, group)
                for shard in group:
                    shard.path.unlink()


class _Writer:
    """Holds new rows and writes them: what is left to do when the store is gone."""

    def __init__(self, folder: Path, budget_bytes: float, shard_rows: int) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.shard_rows = shard_rows
        self.held: dict[bytes, np.ndarray] = {}
        self.full = False

    def add(self, keys: Sequence[bytes], rows: np.ndarray) -> bool:
        """Holds rows; whether it is time to flush."""
        if not self.full:
            self.held.update(zip(keys, np.asarray(rows, np.float16), strict=True))
        return len(self.held) >= self.shard_rows

    def flush(self) -> Path | None:
        """Writes as many of the rows as the budget lets; returns the new shard, if any."""
        held, self.held = self.held, {}
        if not held:
            return None
        keys, rows = list(held), np.stack(list(held.values()))
        room = int(max(0, self.budget_bytes - _bytes_below(self.folder.parent) - HEADER_BYTES))
        count = min(len(keys), room // bytes_of_rows(1, rows.shape[1]))
        if count < len(keys):
            self._stop(f"its budget of {self.budget_bytes / 1e9:g} GB is used up")
        try:
            return write_shard(self.folder, keys[:count], rows[:count]) if count else None
        except OSError as error:
            self._stop(str(error))
            return None

    def _stop(self, why: str) -> None:
        if not self.full:
            logger.warning("%s: nothing more is added, %s; what is there is used", self.folder, why)
        self.full = True


def _allow_many_files() -> None:
    """Lets the process open as many files as it may: an open shard is one, and 1,024 are the usual limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"[!.]*{SUFFIX}"))


def _bytes_below(root: Path) -> int:
    total = 0
    for path in root.glob(f"*/[!.]*{SUFFIX}"):
        with suppress(FileNotFoundError):  # merged in the meantime
            total += path.stat().st_size
    return total


def _lock(file: BinaryIO, operation: int) -> bool:
    """Take a lock on an open file; False if another has it, or the file system has no locks."""
    try:
        fcntl.flock(file, operation)
    except OSError:
        return False
    return True
