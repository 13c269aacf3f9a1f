"""Shared fixtures: seeds, threads, and the folder of real images."""

import functools
import gc
import os
import random
import shutil
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

# What the test files import stays: searching its 700,000 objects for garbage again and again took 6 % of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: more threads would only get in each other's way
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

# Ranks are forked from a server that has imported everything once; spawned, each would import for seconds. They have
# the environment of the server's start: a test that sets variables for its ranks asks for `spawned_ranks`.
mp.set_forkserver_preload(["clipself_d2.engine.main", "clipself_d2.detection", "clipself_d2.miniature"])
_start_processes = mp.start_processes
mp.start_processes = functools.partial(_start_processes, start_method="forkserver")


# Ignored in what a shell starts in the background; the tests interrupt themselves and others.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def spawned_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start ranks as the package does."""
    monkeypatch.setattr(mp, "start_processes", _start_processes)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real data that `CLIPSELF_D2_ASSETS` names (it holds `data/` and `text_embeddings/`)."""
    folder = os.environ.get("CLIPSELF_D2_ASSETS")
    if not folder:
        pytest.skip("CLIPSELF_D2_ASSETS is not set: no real images")
    path = Path(folder).resolve()
    if not (path / "data").is_dir():
        pytest.skip(f"CLIPSELF_D2_ASSETS={folder} has no folder data/")
    return path


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; skips where it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
