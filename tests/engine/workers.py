"""Functions that processes run: importable, and quick to import."""

import atexit
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import torch

from clipself_d2.errors import InputError, Interrupted


def fail_on_rank_1(message: str) -> None:
    """Raise an InputError on one of the ranks, for which the other waits."""
    if torch.distributed.get_rank() == 1:
        raise InputError(message)
    torch.distributed.barrier()


def leave_a_tensor_to_gloo() -> None:
    """Return on rank 1 while one of gloo's threads holds a tensor, which it lets go as the interpreter shuts down."""
    torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))  # keeps the threads
    rank = torch.distributed.get_rank()
    if rank == 0:
        time.sleep(1)
    torch.distributed.all_reduce(torch.ones(2), async_op=rank == 1)
    if rank == 1:
        atexit._clear()  # the last thing before the shutdown holds the interpreter's lock, for which the thread waits
        atexit.register(ctypes.PyDLL(None).usleep, 2_000_000)


def train_until_stopped(folder: Path, starter: int) -> None:
    """Train without end; on rank 1, iteration 3 sends SIGTERM to the process that started the ranks."""
    from torch.nn.parallel import DistributedDataParallel

    from clipself_d2.engine.trainer import Trainer
    from tests.engine.toy import ToyLoader, ToyModel

    class Loader(ToyLoader):
        def __iter__(self):
            for iteration, batch in enumerate(super().__iter__()):
                if iteration == 3 and rank == 1:
                    os.kill(starter, signal.SIGTERM)
                yield batch

    rank = torch.distributed.get_rank()
    model = ToyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = Trainer(DistributedDataParallel(model), Loader(2, seed=rank), optimizer)
    try:
        trainer.train(0, 10**6)
    except Interrupted:
        torch.save((trainer.iter, model.state_dict()), folder / f"{rank}.pth")
        raise


def run_train_net(argv: list[str], output: str) -> None:
    """tools/train_net.py, its output in a file."""
    from clipself_d2.engine.main import main

    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(main(argv))
