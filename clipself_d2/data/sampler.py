"""The order of training samples: an endless shuffle that any rank can enter at any iteration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from clipself_d2.errors import InputError

# Keeps the random streams of the shuffles apart from those of the mappers, which start from (seed, draw).
_SHUFFLE = 1


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields a rank's share of each iteration's batch, without end.

    Draw d is entry d mod N of the permutation of epoch d div N (`epoch_order`). Iteration t has the draws t * B up to
    (t + 1) * B, and each rank takes its contiguous part of them. Batches run across the ends of epochs.

    Args:
        size: N, number of records in the data set.
        total_batch_size: B, samples per iteration over all ranks.
        seed: of all shuffles.
        rank: of this process.
        world_size: number of processes.
        start_iter: first iteration to yield.

    Raises:
        InputError: if the ranks cannot share the batch evenly.
    """

    def __init__(
        self, size: int, total_batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start_iter: int = 0
    ):
        if total_batch_size < 1 or total_batch_size % world_size:
            raise InputError(
                f"total_batch_size {total_batch_size} must be a positive multiple of the {world_size} ranks"
            )
        self.size = size
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.rank = rank
        self.share = total_batch_size // world_size
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (index of the record, number of the draw)."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        first = self.start_iter * self.total_batch_size + self.rank * self.share
        while True:
            batch = []
            for draw in range(first, first + self.share):
                if draw // self.size != epoch:
                    epoch = draw // self.size
                    order = epoch_order(self.size, self.seed, epoch)
                batch.append((int(order[draw % self.size]), draw))
            yield batch
            first += self.total_batch_size


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the records in an epoch: a permutation of 0..size-1."""
    return np.random.default_rng([seed, epoch, _SHUFFLE]).permutation(size)
