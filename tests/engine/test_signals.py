"""Processes get signals: what they leave is that of a run that was never stopped, to the bit."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from clipself_d2.engine.launch import launch
from clipself_d2.errors import Interrupted
from tests.engine.test_run import same
from tests.engine.toy import CONFIG
from tests.engine.workers import run_train_net, train_until_stopped

ROUNDS = int(os.environ.get("SIGNALS", 4))  # 100 by hand
MAX_ITER = 50 * ROUNDS
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1]
SETTINGS = [f"train.max_iter={MAX_ITER}", "train.checkpointer.period=50", "train.log_period=5", "train.eval_period=60"]


@pytest.fixture
def start(tmp_path):
    """Start a run of the toy, whose steps take 10 ms, in a folder."""
    config = tmp_path / "toy.py"
    config.write_text(CONFIG.replace("ToyModel", "SlowModel"))
    processes = multiprocessing.get_context("forkserver")

    def start(folder, *more):
        argv = ["--config-file", str(config), "--resume", f"train.output_dir={folder}", *SETTINGS, *more]
        process = processes.Process(target=run_train_net, args=(argv, f"{folder}.txt"))
        process.start()
        return process

    return start


def wait_for(text: str, folder, known: int = 0) -> None:
    """Until the log of a folder has a text after the known part."""
    for _ in range(6000):
        if (folder / "log.txt").exists() and text in (folder / "log.txt").read_text()[known:]:
            return
        time.sleep(0.01)
    raise TimeoutError


def test_stopped_by_signals_equals_uninterrupted_to_the_bit(start, tmp_path):
    process = start(tmp_path / "whole")
    process.join()
    assert process.exitcode == 0
    cut, draw, sent = tmp_path / "cut", random.Random(0), 0
    while sent < ROUNDS:
        known = len((cut / "log.txt").read_text()) if sent else 0
        process = start(cut)
        wait_for("iter: ", cut, known)
        time.sleep(draw.uniform(0, 0.2))
        signum = SIGNALS[sent % len(SIGNALS)]
        os.kill(process.pid, signum)
        process.join()
        if process.exitcode == 0:  # it was faster
            break
        assert process.exitcode == (-signum if signum == signal.SIGKILL else 128 + signum)
        sent += 1
    if process.exitcode:
        process = start(cut)
        process.join()
        assert process.exitcode == 0
    output = (tmp_path / "cut.txt").read_text()
    assert "Traceback" not in output
    assert output.count("--resume goes on from the last checkpoint") == sum(
        SIGNALS[i % len(SIGNALS)] != signal.SIGKILL for i in range(sent)
    )
    print(f"{sent} signals")
    assert same(*(torch.load(tmp_path / name / f"checkpoint_{MAX_ITER:07d}.pth") for name in ("whole", "cut")))


def test_a_second_signal_ends_at_once(start, tmp_path):
    process = start(tmp_path / "out", "model.seconds=30")
    wait_for("Training from iteration", tmp_path / "out")
    time.sleep(0.5)  # into the first step
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM
    assert not list((tmp_path / "out").glob("checkpoint_*"))


def test_ranks_stop_after_the_same_step(tmp_path):
    with pytest.raises(Interrupted) as caught:
        launch(train_until_stopped, (tmp_path, os.getpid()), device="cpu", ranks_per_machine=2)
    assert caught.value.signum == signal.SIGTERM
    (first, weights), (second, others) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert first == second >= 3
    assert same(weights, others)
    assert str(caught.value) == f"stopped by SIGTERM after {first} iterations"
