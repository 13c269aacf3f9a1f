import os
import socket

import pytest
import torch
from detectron2.utils import comm

from clipself_d2.engine import launch as launch_module
from clipself_d2.engine.launch import launch
from clipself_d2.errors import InputError
from tests.engine.workers import fail_on_rank_1, leave_a_tensor_to_gloo


def test_one_rank_runs_here():
    ranks = []
    launch(ranks.append, (os.getpid(),), device="cpu")
    assert ranks == [os.getpid()]


def test_an_error_of_one_rank_comes_out_as_itself():
    with pytest.raises(InputError, match="coco is not there"):
        launch(fail_on_rank_1, ("coco is not there",), device="cpu", ranks_per_machine=2)


def test_a_rank_ends_while_gloo_holds_a_tensor(spawned_ranks):
    launch(leave_a_tensor_to_gloo, device="cpu", ranks_per_machine=2)


def test_torchruns_environment_is_followed(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    env = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**env, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    comm.create_local_process_group.cache_clear()

    ranks = []

    def run():
        ranks.append((torch.distributed.get_backend(), comm.get_local_rank(), comm.get_world_size()))

    try:
        launch(run, device="cpu")
        assert ranks == [("gloo", 0, 1)]
        assert not torch.distributed.is_initialized()
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        comm.create_local_process_group.cache_clear()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ranks_per_machine": 0}, "at least 1"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank"),
        ({"num_machines": 2}, "--dist-url"),
    ],
)
def test_wrong_numbers_are_said(kwargs, message):
    with pytest.raises(InputError, match=message):
        launch(os.getpid, device="cpu", **kwargs)


def test_missing_devices_are_said(monkeypatch):
    monkeypatch.setattr(launch_module.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"needs 2 CUDA device\(s\), 1 are visible; pass train\.device=cpu"):
        launch(os.getpid, device="cuda", ranks_per_machine=2)


def test_ranks_on_the_cpu_are_asked_for(monkeypatch):
    monkeypatch.setattr(launch_module.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"--num-gpus: 2 ranks .* no usable GPU; pass train.device=cpu"):
        launch(os.getpid, device="auto", ranks_per_machine=2)
    launch(os.getpid, device="auto")
