"""A shard: embeddings under 128-bit keys in one immutable file, mapped into memory.

Two arrays in NumPy's format, one after the other: the index, 4 x N uint64 with columns sorted by key (the two halves of
the key, the CRC-32 of the row, the number of the row), and the N x C fp16 rows, in the order in which they were added,
so that what is read together lies together. The file's name is the hash of its index: writers never meet, and a file
that was cut off or altered is known by its name, its length, or the CRC of the row that is read.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipself_d2.clip.checkpoint import write_atomically

SUFFIX = ".shard"
HEADER_BYTES = 256
"""Of a file, beside `bytes_of_rows`."""

_RUN = 2**14  # rows that are checked at once


class DamagedShardError(Exception):
    """A shard that cannot be trusted."""


class Shard:
    """One file, open for reading; it stays readable as long as this object lives.

    Attributes:
        path: of the file.
        index: 4 x N, see the module.
        rows: N x C fp16.
    """

    def __init__(self, path: Path) -> None:
        """Maps a file, once for both arrays, as each map costs a file descriptor; checks its length and its index.

        Raises:
            DamagedShardError: if it was cut off or altered.
            OSError: if it cannot be opened.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                content = np.asarray(np.memmap(file, np.uint8, "r"))
                file.seek(0)
                self.index, self.rows = _part(file, content, "<u8"), _part(file, content, "<f2")
                whole = file.tell() == len(content)
        except OSError:
            raise
        except Exception as error:  # NumPy's reader raises a dozen kinds for a damaged header
            raise DamagedShardError("is cut off or no shard") from error
        if not whole or self.index.shape != (4, len(self.rows)) or _name(self.index) != path.name:
            raise DamagedShardError("is cut off or damaged")

    def get(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks up keys.

        Args:
            keys: N x 2 uint64.

        Returns:
            N bool, whether a key is here, and the rows of those that are.

        Raises:
            DamagedShardError: if such a row was altered.
        """
        # Both halves are compared: keys with the same first half can hide one another, and do so once in 10^19 pairs.
        place = np.searchsorted(self.index[0], keys[:, 0]).clip(max=len(self.rows) - 1)
        there = (keys == self.index[:2, place].T).all(axis=1)
        checks, numbers = self.index[2:, place[there]]
        rows = self.rows[numbers]
        _check(rows, checks)
        return there, rows

    def verify(self) -> None:
        """Raises DamagedShardError if any row was altered."""
        checks = np.empty_like(self.index[2])
        checks[self.index[3]] = self.index[2]
        for start in range(0, len(self.rows), _RUN):
            _check(self.rows[start : start + _RUN], checks[start : start + _RUN])


def write_shard(folder: Path, keys: Iterable[bytes], rows: np.ndarray) -> Path:
    """Writes a shard, whole or not at all.

    Args:
        folder: where; the name follows from the content.
        keys: N of 16 bytes.
        rows: N x C fp16, N >= 1.

    Raises:
        OSError: the disk.
    """
    index = np.empty((4, len(rows)), "<u8")
    index[:2] = split_keys(keys).T
    index[2], index[3] = list(_crc(rows)), np.arange(len(rows))
    return _write(folder, index, [rows])


def merge_shards(folder: Path, shards: Sequence[Shard]) -> Path:
    """Writes the content of some shards as one; the rows are copied, not held in memory."""
    starts = np.cumsum([0] + [len(shard.rows) for shard in shards[:-1]]).astype("<u8")
    parts = [np.concatenate([s.index[:3], s.index[3:] + start]) for s, start in zip(shards, starts, strict=True)]
    return _write(folder, np.concatenate(parts, axis=1), [shard.rows for shard in shards])


def split_keys(keys: Iterable[bytes]) -> np.ndarray:
    """N x 2 uint64, the halves of N keys of 16 bytes."""
    return np.frombuffer(bytearray().join(keys), "<u8").reshape(-1, 2)


def bytes_of_rows(rows: int, dim: int) -> int:
    """Bytes of so many embeddings of `dim` numbers, with their place in the index."""
    return rows * (4 * 8 + 2 * dim)


def _write(folder: Path, index: np.ndarray, rows: Sequence[np.ndarray]) -> Path:
    index = np.ascontiguousarray(index[:, np.lexsort((index[1], index[0]))])
    header = {"descr": "<f2", "fortran_order": False, "shape": (index.shape[1], rows[0].shape[1])}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.lib.format.write_array(file, index)
            np.lib.format.write_array_header_1_0(file, header)
            for part in rows:
                file.write(part.data)

    path = folder / _name(index)
    write_atomically(path, write)
    return path


def _part(file: BinaryIO, content: np.ndarray, dtype: str) -> np.ndarray:
    """The array in NumPy's format at the file's position, part of its mapped bytes; the position moves behind it."""
    np.lib.format.read_magic(file)
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    if found != np.dtype(dtype) or len(shape) != 2:
        raise ValueError(f"{found} {shape}")
    start = file.tell()
    array = content[start : start + math.prod(shape) * found.itemsize].view(found).reshape(shape)
    file.seek(start + array.nbytes)
    return array


def _name(index: np.ndarray) -> str:
    return hashlib.blake2b(index.data, digest_size=16).hexdigest() + SUFFIX


def _crc(rows: np.ndarray) -> Iterator[int]:
    return (zlib.crc32(row) for row in rows)


def _check(rows: np.ndarray, checks: np.ndarray) -> None:
    if any(ours != stored for ours, stored in zip(_crc(rows), checks.tolist(), strict=True)):
        raise DamagedShardError("holds a row that was altered")
