"""Loaders: a resumable one for training, an ordered one for evaluation."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, Dataset

from clipself_d2.data.catalog import get_dataset
from clipself_d2.data.image import ImageError
from clipself_d2.data.sampler import EpochBatchSampler, epoch_order
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]


class RegionDataLoader:
    """Iterates over batches, lists of at least one sample, and counts the images that cannot be read.

    Args:
        loader: its dataset is a `_MappedRecords`, its batches are lists of `_Read`.

    Attributes:
        num_unreadable: attempts to read an image that failed on this rank, in this pass.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.num_unreadable = 0
        self._files: set[str] = set()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Sample]]:
        """Raise an InputError for too many unreadable images, and for a sample that is wrong in another way."""
        self.num_unreadable = 0
        self._files.clear()
        found = False
        for batch in self.loader:
            for read in batch:
                self._count(read.unreadable)
                if read.error is not None:
                    raise read.error
            if samples := [read.sample for read in batch if read.sample is not None]:
                found = True
                yield samples
        if self._files and not found:
            raise InputError(f"none of the images can be read; one of them: {min(self._files)}")

    def _count(self, unreadable: list[str]) -> None:
        records: _MappedRecords = self.loader.dataset  # type: ignore[assignment]
        for message in unreadable:
            self.num_unreadable += 1
            if message not in self._files:
                self._files.add(message)
                logger.warning("Unreadable image %d: %s", len(self._files), message)
            if len(self._files) > records.max_unreadable or len(self._files) == len(records):
                raise InputError(
                    f"{len(self._files)} of {len(records)} images cannot be read, more than max_unreadable="
                    f"{records.fraction:g} allows; the last one: {message}"
                )


class _Read(NamedTuple):
    """What a worker made of a record; errors are values, because exceptions lose their type between processes."""

    sample: Sample | None
    unreadable: list[str]  # messages of the images that were tried in vain
    error: InputError | None = None


class _MappedRecords(Dataset):
    """Records seen through a mapper.

    Args:
        records: of the data set.
        mapper: called with a record, in training with a generator too.
        fraction: of the records that may be unreadable, 0..1; a single one always may.
        seed: in training, of the shuffles and generators.
    """

    def __init__(
        self, records: list[dict[str, Any]], mapper: Callable[..., Sample], fraction: float, seed: int | None = None
    ):
        if not 0 <= fraction <= 1:
            raise InputError(f"max_unreadable={fraction}: must be a fraction between 0 and 1")
        self.records = DatasetFromList(records)
        self.mapper = mapper
        self.fraction = fraction
        self.seed = seed
        self.max_unreadable = max(1, int(fraction * len(records)))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> _Read:
        """Read a record: by its index, or in training by `EpochBatchSampler`'s pair of index and draw.

        A training image that cannot be read is replaced by the next one in the order of its epoch. Hence the sample of
        a draw depends on the seed, the draw and the files, and not on ranks, workers or where a run was resumed.
        """
        if not isinstance(key, tuple):
            return self._read(key)
        index, draw = key
        read = self._read(index, draw)
        unreadable = read.unreadable
        if unreadable:
            epoch, position = divmod(draw, len(self))
            following = np.roll(epoch_order(len(self), self.seed or 0, epoch), -position)[1:]
            for other in following[: self.max_unreadable]:  # the loader stops at one more
                read = self._read(int(other), draw)
                if not read.unreadable:
                    break
                unreadable += read.unreadable
        return read._replace(unreadable=unreadable)

    def _read(self, index: int, draw: int | None = None) -> _Read:
        generator = () if draw is None else (np.random.default_rng([self.seed or 0, draw]),)
        try:
            return _Read(self.mapper(self.records[index], *generator), [])
        except ImageError as error:
            return _Read(None, [str(error)])
        except InputError as error:
            return _Read(None, [], error)


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole group lets the run finish its step: a worker that is ended has not failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(0))


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def build_train_loader(
    dataset: str | Sequence[Any],
    mapper: Callable[[dict[str, Any], np.random.Generator], Sample],
    total_batch_size: int,
    seed: int,
    num_workers: int,
    start_iter: int = 0,
    max_unreadable: float = 0.01,
) -> RegionDataLoader:
    """Build the endless loader for training.

    What iteration t holds, over all ranks together, is a function of the seed, t and the files: neither the number of
    ranks nor of workers, nor a resumption, changes it. An unreadable image is replaced by the next sample.

    Args:
        dataset: registered name, names or records; see `get_dataset`.
        mapper: called with a record and a generator seeded by (seed, draw); may have ``check(records)``, or
            ``select(records)``, which returns those to train on, called once.
        total_batch_size: samples per iteration over all ranks.
        seed: of the shuffles and the mapper's generators.
        num_workers: processes that read; 0 reads in this one.
        start_iter: the first iteration to yield.
        max_unreadable: fraction of the images above which a rank stops with an `InputError`.

    Returns:
        A loader of lists of total_batch_size / ranks samples.

    Raises:
        InputError: if the data set is unknown or empty, does not fit the mapper, or the ranks cannot share the batch
            evenly.
    """
    records = get_dataset(dataset)
    if hasattr(mapper, "check"):
        mapper.check(records)
    if hasattr(mapper, "select"):
        records = mapper.select(records)
    sampler = EpochBatchSampler(
        len(records), total_batch_size, seed, comm.get_rank(), comm.get_world_size(), start_iter
    )
    return RegionDataLoader(
        DataLoader(
            _MappedRecords(records, mapper, max_unreadable, seed),
            batch_sampler=sampler,
            generator=torch.Generator(),  # else every iter() would advance the global one
            **_reading(num_workers),
        )
    )


def build_test_loader(
    dataset: str | Sequence[Any],
    mapper: Callable[[dict[str, Any]], Sample],
    num_workers: int,
    batch_size: int = 1,
    max_unreadable: float = 0.01,
    batches: Sequence[Sequence[int]] | None = None,
) -> RegionDataLoader:
    """Build the loader for evaluation: each record once, in order, each rank its contiguous share.

    Unreadable images are left out.

    Args:
        dataset: registered name, names or records; see `get_dataset`.
        mapper: called with a record.
        num_workers: processes that read; 0 reads in this one.
        batch_size: images per batch, on each rank.
        max_unreadable: fraction of the images above which a rank stops with an `InputError`.
        batches: indices of the records of this rank's batches, in place of its share.

    Returns:
        A loader of lists of samples.

    Raises:
        InputError: if the data set is unknown or empty.
    """
    records = get_dataset(dataset)
    sampler: Any = BatchSampler(InferenceSampler(len(records)), batch_size, False) if batches is None else batches
    return RegionDataLoader(
        DataLoader(_MappedRecords(records, mapper, max_unreadable), batch_sampler=sampler, **_reading(num_workers))
    )


def _reading(num_workers: int) -> dict[str, Any]:
    """How batches come: as lists, by workers that outlive a pass, and into pinned memory once this process uses a GPU,
    so that copies to it overlap with computing."""
    workers = num_workers > 0
    return {
        "num_workers": num_workers,
        "collate_fn": _as_list,
        "worker_init_fn": _leave_signals_to_the_run,
        "persistent_workers": workers,
        "pin_memory": workers and torch.cuda.is_initialized(),
    }
