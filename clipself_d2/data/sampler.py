"""Which record is seen when: an endless shuffled order that any rank can enter at any iteration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from clipself_d2.errors import InputError

# Keeps the shuffles' streams of random numbers apart from the mappers', which start from (seed, draw).
_SHUFFLE = 1


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields a rank's share of every iteration's batch, without end.

    The order of the draws, and what an iteration's ranks draw together, depends on the seed alone: draw d is entry d
    mod N of the permutation of epoch d div N. Iteration t has draws t * B up to (t + 1) * B, of which each rank takes
    its contiguous part. Batches run across the ends of epochs.
    """

    def __init__(
        self, size: int, total_batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start_iter: int = 0
    ):
        """Sets the order.

        Args:
            size: N, records of the data set.
            total_batch_size: B, samples of an iteration over all ranks.
            seed: of all shuffles.
            rank: this process.
            world_size: number of processes.
            start_iter: the first iteration to yield.

        Raises:
            InputError: if the batch cannot be shared evenly.
        """
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
        """Yields lists of (index of the record, number of the draw)."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        first = self.start_iter * self.total_batch_size + self.rank * self.share
        while True:
            batch = []
            for draw in range(first, first + self.share):
                if draw // self.size != epoch:
                    epoch = draw // self.size
                    order = np.random.default_rng([self.seed, epoch, _SHUFFLE]).permutation(self.size)
                batch.append((int(order[draw % self.size]), draw))
            yield batch
            first += self.total_batch_size
