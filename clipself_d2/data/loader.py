"""Loaders: a resumable one for training, an ordered one for evaluation; both leave out unreadable images aloud."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from clipself_d2.data.catalog import get_dataset
from clipself_d2.data.image import ImageError
from clipself_d2.data.sampler import EpochBatchSampler
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Sample = dict[str, Any]

# So many unreadable images in a row are no accident but a wrong folder.
_PATIENCE = 100


class RegionDataLoader:
    """Iterates over batches, lists of samples; images that cannot be read are left out, warned about and counted.

    A batch whose images are all unreadable comes as an empty list, so that iterations keep their numbers.

    Attributes:
        skipped: images left out of the batches of this pass so far, on this rank.
    """

    def __init__(self, loader: DataLoader):
        """Wraps a loader whose batches are lists of samples and of InputErrors."""
        self.loader = loader
        self.skipped = 0
        self._in_a_row = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Sample]]:
        """Raises InputError if a sample cannot be used for another reason, or no image of many can be read."""
        self.skipped = self._in_a_row = 0
        for batch in self.loader:
            yield [sample for sample in batch if self._usable(sample)]

    def _usable(self, sample: Sample | InputError) -> bool:
        if not isinstance(sample, InputError):
            self._in_a_row = 0
            return True
        if not isinstance(sample, ImageError):
            raise sample
        self.skipped += 1
        self._in_a_row += 1
        logger.warning("Left out, %d so far: %s", self.skipped, sample)
        if self._in_a_row >= _PATIENCE:
            raise InputError(f"{_PATIENCE} images in a row cannot be read, the last one: {sample}")
        return False


class _MappedRecords(Dataset):
    """Records seen through a mapper; InputErrors become values, because exceptions lose their shape between
    processes."""

    def __init__(self, records: list[dict[str, Any]], mapper: Callable[..., Sample], seed: int = 0):
        self.records = DatasetFromList(records)
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample | InputError:
        try:
            if isinstance(key, tuple):
                index, draw = key
                return self.mapper(self.records[index], np.random.default_rng([self.seed, draw]))
            return self.mapper(self.records[key])
        except InputError as error:
            return error


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def build_train_loader(
    dataset: str | Sequence[Any],
    mapper: Callable[[dict[str, Any], np.random.Generator], Sample],
    total_batch_size: int,
    seed: int,
    num_workers: int,
    start_iter: int = 0,
) -> RegionDataLoader:
    """Builds the endless loader for training.

    What iteration t holds, over all ranks together, is a function of the seed and t: neither the number of ranks nor of
    workers, nor having been resumed, changes it.

    Args:
        dataset: registered name, names or records; see `get_dataset`.
        mapper: called with a record and a generator seeded by (seed, draw); may have ``check(records)``, or
            ``select(records)``, which returns those to train on, called once.
        total_batch_size: samples of an iteration over all ranks.
        seed: of the shuffles and the mapper's generators.
        num_workers: processes that read; 0 reads in this one.
        start_iter: the first iteration to yield.

    Returns:
        A loader of lists of total_batch_size / ranks samples, fewer where images could not be read.

    Raises:
        InputError: if the data set is unknown or empty, does not fit the mapper, or the batch cannot be shared by the
            ranks.
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
            _MappedRecords(records, mapper, seed),
            batch_sampler=sampler,
            generator=torch.Generator(),  # else every iter() would advance the global one
            **_reading(num_workers),
        )
    )


def build_test_loader(
    dataset: str | Sequence[Any], mapper: Callable[[dict[str, Any]], Sample], num_workers: int, batch_size: int = 1
) -> RegionDataLoader:
    """Builds the loader for evaluation: every record once, in order, each rank its contiguous share.

    Args:
        dataset: registered name, names or records; see `get_dataset`.
        mapper: called with a record.
        num_workers: processes that read; 0 reads in this one.
        batch_size: images a batch, on each rank.

    Returns:
        A loader of lists of samples.

    Raises:
        InputError: if the data set is unknown or empty.
    """
    records = get_dataset(dataset)
    return RegionDataLoader(
        DataLoader(
            _MappedRecords(records, mapper),
            sampler=InferenceSampler(len(records)),
            batch_size=batch_size,
            **_reading(num_workers),
        )
    )


def _reading(num_workers: int) -> dict[str, Any]:
    """How batches come: as lists, by workers that outlive a pass, and into pinned memory where this process uses a GPU
    (which is so once its model is there), so that copies to it overlap with computing."""
    workers = num_workers > 0
    return {
        "num_workers": num_workers,
        "collate_fn": _as_list,
        "persistent_workers": workers,
        "pin_memory": workers and torch.cuda.is_initialized(),
    }
