import os
import subprocess
import sys

import pytest

from clipself_d2.engine import folder as folder_module
from clipself_d2.engine.folder import locked
from clipself_d2.errors import InputError

HOLD = """
import sys
from pathlib import Path
from clipself_d2.engine.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_one_process_s_until_it_ends_however_it_ends(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_WAIT_S", 0.2)
    with (
        pytest.raises(InputError, match=rf"another run \(process {holder.pid}\) is writing there") as caught,
        locked(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_what_killed_runs_left_is_removed(tmp_path):
    left = [".checkpoint_0000003.pth.0a1b.pth", ".tower.safetensors.0a1b.safetensors", ".last_checkpoint.0a1b"]
    kept = [".gitignore", "tower.safetensors", "last_checkpoint"]
    for name in left + kept:
        (tmp_path / name).touch()
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", *kept])


def test_a_file_system_without_locks_is_used_without_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folder_module.fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
