"""Functions that ranks run: importable, and quick to import."""

import torch

from clipself_d2.errors import InputError


def fail_on_rank_1(message: str) -> None:
    """Raise an InputError on one of the ranks, for which the other waits."""
    if torch.distributed.get_rank() == 1:
        raise InputError(message)
    torch.distributed.barrier()
