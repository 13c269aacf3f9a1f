"""Starting the ranks: by Detectron2's `launch`, or inside torchrun."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

from clipself_d2.command_line import signal_handlers
from clipself_d2.engine.signals import SIGNALS
from clipself_d2.errors import InputError, Interrupted, RunError, lack_of_resources


def launch(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    *,
    device: str,
    ranks_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Run `function(*args)` on each rank.

    Adds to Detectron2's launcher: torchrun's environment is followed; a machine with GPUs can start ranks on the CPU;
    signals are passed on to the ranks; and an `InputError`, `RunError` or `Interrupted` of a rank is raised here as
    itself, not as the text of a traceback.

    Args:
        function: importable by name, because ranks are spawned.
        args: its arguments, picklable when there are several ranks.
        device: "cuda" (NCCL), "cpu" (gloo), or "auto": CUDA where there is a device, else a single rank on the CPU.
        ranks_per_machine: GPUs, or CPU processes.
        num_machines: number of machines that run the same command.
        machine_rank: number of this machine, from 0.
        dist_url: where ranks meet, `tcp://HOST:PORT`; "auto" finds a free port on a single machine.

    Raises:
        InputError: for a wrong number of devices or machines, or raised by any rank.
        RunError: raised by any rank, or the system ended one.
        Interrupted: a signal ended the ranks.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _run_in_torchrun(function, args, device, os.environ)
        return
    if ranks_per_machine < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise InputError("--num-gpus and --num-machines must be at least 1, and --machine-rank below --num-machines")
    if num_machines > 1 and dist_url == "auto":
        raise InputError("--dist-url: give tcp://HOST:PORT of machine 0 when there are several machines")
    device = _usable(device, ranks_per_machine, ranks_per_machine * num_machines)
    if ranks_per_machine * num_machines == 1:
        function(*args)
        return
    errors = mp.get_context("spawn").SimpleQueue()
    arguments = (function, args, device, ranks_per_machine, errors)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # where Detectron2 sees a GPU, it takes NCCL
    received: list[int] = []

    def pass_on(signum: int) -> None:
        received.append(signum)
        for rank in mp.active_children():
            if rank.pid:
                os.kill(rank.pid, signum)

    try:
        with signal_handlers(SIGNALS, pass_on):
            launch_processes(_run_rank, ranks_per_machine, num_machines, machine_rank, dist_url, arguments)
        if not errors.empty():
            raise errors.get()
        if received:  # before the ranks had anything to finish
            raise Interrupted(received[0])
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        if not errors.empty():
            raise errors.get() from None
        if received:
            raise Interrupted(received[0]) from None
        if isinstance(error, mp.ProcessExitedException):
            raise RunError(f"{error}: the system ended a rank; memory may be short") from None
        raise
    finally:
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        elif device == "cpu":
            del os.environ["CUDA_VISIBLE_DEVICES"]


def _run_rank(function: Callable[..., Any], args: tuple[Any, ...], device: str, local_size: int, errors: Any) -> None:
    if device == "cpu":  # the ranks share the cores; each would otherwise start one thread per core
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        function(*args)
        dist.destroy_process_group()
    except Interrupted as error:  # all ranks stop together: none has failed
        errors.put(error)
    except Exception as error:
        line = lack_of_resources(error) or error
        if not isinstance(line, InputError | RunError):
            raise
        errors.put(line)
        sys.exit(1)
    _leave()


def _leave() -> NoReturn:
    """End this process without the interpreter's shutdown.

    DistributedDataParallel keeps gloo's threads. One that lets go of its last tensor while the interpreter shuts down
    aborts the process (pytorch/pytorch#179291).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run_in_torchrun(function: Callable[..., Any], args: tuple[Any, ...], device: str, env: Mapping[str, str]) -> None:
    local_rank, local_size = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", 1))
    device = _usable(device, local_size, int(env["WORLD_SIZE"]))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    try:
        function(*args)
    finally:
        dist.destroy_process_group()


def _usable(device: str, local_ranks: int, ranks: int) -> str:
    """The device of the ranks, "cuda" or "cpu"; an InputError if there are not enough."""
    found = torch.cuda.device_count()
    if device == "auto" and found == 0 and ranks > 1:
        raise InputError(
            f"--num-gpus: {ranks} ranks were asked for, and this machine has no usable GPU; pass train.device=cpu for "
            "ranks on the CPU"
        )
    device = ("cuda" if found else "cpu") if device == "auto" else device
    if device == "cuda" and found < local_ranks:
        raise InputError(
            f"train.device=cuda needs {local_ranks} CUDA device(s), {found} are visible; "
            "pass train.device=cpu or a smaller --num-gpus"
        )
    return device
