"""Starting the ranks: one process, several on this machine or many (NCCL on CUDA, gloo on CPU), or torchrun's."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from clipself_d2.errors import InputError, RunError

TIMEOUT = timedelta(minutes=30)


def launch(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    *,
    device: str,
    ranks_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> Any:
    """Run `function(*args)` on every rank.

    Detectron2's own launcher chooses the backend by whether a GPU exists; this one also starts ranks on the CPU of a
    machine with GPUs, follows torchrun's environment, and lets a rank's one-line errors through as themselves.

    Args:
        function: importable by name, because ranks are spawned.
        args: its arguments, picklable.
        device: "cuda" or "cpu".
        ranks_per_machine: GPUs, or CPU processes.
        num_machines: number of machines that run the same command.
        machine_rank: which of them this is.
        dist_url: where ranks meet, `tcp://HOST:PORT`; "auto" finds a free port on a single machine.

    Returns:
        What the function returned, if it ran in this process; None when it ran in spawned ones.

    Raises:
        InputError: for a wrong number of devices or machines, or raised by any rank.
        RunError: raised by any rank.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _with_torchrun(function, args, device, os.environ)
    world_size = ranks_per_machine * num_machines
    if ranks_per_machine < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise InputError("--num-gpus and --num-machines must be at least 1, and --machine-rank below --num-machines")
    _check_devices(device, ranks_per_machine)
    if world_size == 1:
        return function(*args)
    if dist_url == "auto":
        if num_machines > 1:
            raise InputError("--dist-url: give tcp://HOST:PORT of machine 0 when there are several machines")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    errors = mp.get_context("spawn").SimpleQueue()
    first = machine_rank * ranks_per_machine
    try:
        mp.spawn(
            _worker,
            args=(first, world_size, ranks_per_machine, dist_url, device, errors, function, args),
            nprocs=ranks_per_machine,
        )
    except (mp.ProcessExitedException, mp.ProcessRaisedException):
        if errors.empty():
            raise
        raise errors.get() from None
    return None


def _worker(
    local_rank: int,
    first_rank: int,
    world_size: int,
    local_size: int,
    dist_url: str,
    device: str,
    errors: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    if device == "cpu":
        # The ranks share the cores; each would otherwise start a thread a core.
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        _join(first_rank + local_rank, world_size, local_rank, local_size, dist_url, device)
        function(*args)
        dist.destroy_process_group()
    except (InputError, RunError) as error:
        errors.put(error)
        sys.exit(1)


def _with_torchrun(function: Callable[..., Any], args: tuple[Any, ...], device: str, env: Mapping[str, str]) -> Any:
    local_rank, local_size = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", 1))
    _check_devices(device, local_size)
    _join(int(env["RANK"]), int(env["WORLD_SIZE"]), local_rank, local_size, "env://", device)
    try:
        return function(*args)
    finally:
        dist.destroy_process_group()


def _join(rank: int, world_size: int, local_rank: int, local_size: int, dist_url: str, device: str) -> None:
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=dist_url, world_size=world_size, rank=rank, timeout=TIMEOUT)
    comm.create_local_process_group(local_size)
    comm.synchronize()


def _check_devices(device: str, ranks: int) -> None:
    if device == "cuda" and torch.cuda.device_count() < ranks:
        raise InputError(
            f"train.device=cuda needs {ranks} CUDA device(s), {torch.cuda.device_count()} are visible; "
            "pass train.device=cpu or a smaller --num-gpus"
        )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
