"""Files that hold no weights, atomic saving, interpolation."""

import argparse
import json
import os
import pickle
import resource
import signal
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipself_d2.clip import checkpoint as module
from clipself_d2.clip import interpolate, read_checkpoint, save_checkpoint
from clipself_d2.errors import InputError, RunError

from .conftest import FAMILIES


class Exploit:
    """Would run a command where a file is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def damaged(tmp_path, kind):
    path = tmp_path / f"weights.{'safetensors' if kind.endswith('safetensors') else 'pt'}"
    if kind.startswith("truncated"):
        whole = tmp_path / f"whole{path.suffix}"
        tensors = {"visual.proj": torch.rand(64, 64)}
        module.save_tensors(tensors, whole) if path.suffix == ".safetensors" else torch.save(tensors, whole)
        path.write_bytes(whole.read_bytes()[:-2000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Exploit()}))
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    elif kind == "numbers":
        torch.save({"loss": 0.1}, path)
    elif kind == "nothing":
        torch.save({}, path)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "hello")
    elif kind == "folder":
        path.mkdir()
    return path


KINDS = ["empty", "text", "pickle", "list", "numbers", "nothing", "zip", "absent", "folder"]


@pytest.mark.parametrize("kind", ["truncated.pt", "truncated.safetensors", *KINDS])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_without_weights(tmp_path, kind):
    path = damaged(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty: download it again"),
        (b"\n<!DOCTYPE html><html><title>Google Drive", "a web page, not weights"),
        (b"<html>404</html>", "a web page, not weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 598641023\n",
            "a Git LFS pointer, not weights",
        ),
        (b"PK\x03\x04" + bytes(2000), "truncated"),
        (b"\x80\x02" + bytes(2000), "truncated"),
        (bytes(2000), "not a file of weights"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_saved_in_place_of_the_weights(tmp_path, content, reason, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"weights{suffix}: {reason}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_neither_read_nor_written(tmp_path):
    state = {
        "visual.proj": torch.tensor([1.0, float("nan")]),
        "ln": torch.tensor([-float("inf")]),
        "n": torch.tensor(3),
    }
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: 2 of 3 weights are not finite: visual\.proj, ln"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(RunError, match=r"b\.safetensors: not written, 2 of 3 weights are not finite"):
        save_checkpoint(state, tmp_path / "b.safetensors", {})
    assert not (tmp_path / "b.safetensors").exists()


def test_a_file_of_another_suffix_is_read_by_its_content(tmp_path):
    state = {"visual.proj": torch.rand(3, 3)}
    module.save_tensors(state, tmp_path / "a.bin")
    torch.save(state, tmp_path / "b.safetensors")
    for name in ("a.bin", "b.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name)["visual.proj"], state["visual.proj"])


def test_written_files_have_the_umask_of_the_user(tmp_path):
    previous = os.umask(0o027)
    try:
        save_checkpoint({"a": torch.zeros(1)}, tmp_path / "tower.safetensors", {})
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_name_of_the_greatest_length(tmp_path):
    path = tmp_path / ("a" * 243 + ".safetensors")
    module.save_tensors({"a": torch.zeros(1)}, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extra", [argparse.Namespace(lr=1), np.float64(0.5)], ids=["namespace", "scalar"])
def test_objects_beside_the_tensors_are_said(tmp_path, extra):
    torch.save({"state_dict": {"visual.proj": torch.zeros(2, 2)}, "extra": extra}, tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "other Python objects than tensors" in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_open_clip_loads_what_we_save(name, configs, towers, tmp_path):
    image, text = towers(name)
    path = tmp_path / "tower.safetensors"
    save_checkpoint({**image.state_dict(), **text.state_dict()}, path, {"alpha": 0.7, "source": name})
    theirs = open_clip.create_model(name, pretrained=str(path)).eval()
    pixels = torch.randn(2, 3, image.native_size, image.native_size)
    tokens = open_clip.get_tokenizer(name)(["a cat", "a red star"])
    assert tokens.shape == (2, 20)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(pixels), image.image_embeddings(pixels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs.encode_text(tokens), text(["a cat", "a red star"]))
    assert json.loads((tmp_path / "tower.json").read_text()) == {"alpha": 0.7, "source": name}
    before = path.read_bytes()
    save_checkpoint({**text.state_dict(), **image.state_dict()}, path, {})
    assert path.read_bytes() == before  # a function of the weights


def test_weights_are_safetensors(tmp_path):
    with pytest.raises(InputError, match=r"tower\.pt: .*safetensors"):
        save_checkpoint({"a": torch.zeros(1)}, tmp_path / "tower.pt", {})


@pytest.mark.parametrize("failing", ["save_file", "fsync"])
def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "tower.safetensors"
    save_checkpoint({"a": torch.ones(3)}, path, {"step": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((module, "save_file") if failing == "save_file" else (module.os, "fsync")), refuse)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint({"a": torch.zeros(3)}, path, {"step": 2})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_truly_full_disk(tmp_path):
    """Where no file may grow beyond 100 kB the save fails as an OSError and the old weights stay."""
    path = tmp_path / "tower.safetensors"
    save_checkpoint({"a": torch.ones(3)}, path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError):
            save_checkpoint({"a": torch.ones(100_000)}, path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tower.json", "tower.safetensors"]
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(3))


def test_a_half_written_file_is_never_seen(tmp_path):
    path, seen = tmp_path / "rows.bin", []

    def write(file):
        file.write_bytes(b"half")
        seen.append(path.exists())
        file.write_bytes(b"whole")

    module.write_atomically(path, write)
    assert seen == [False] and path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


# ---- interpolation ----


@given(alpha=st.floats(0, 1), student=st.floats(-4, 4), teacher=st.floats(-4, 4))
def test_interpolation_is_a_weighted_mean(alpha, student, teacher):
    out = interpolate({"a": torch.tensor([student])}, {"a": torch.tensor([teacher])}, alpha)
    assert out["a"].item() == pytest.approx(alpha * student + (1 - alpha) * teacher, abs=1e-5)


def test_interpolation_ends_are_exact_and_counters_the_students():
    student = {"a": torch.randn(5), "n": torch.tensor(3)}
    teacher = {"a": torch.randn(5), "n": torch.tensor(1)}
    assert torch.equal(interpolate(student, teacher, 1.0)["a"], student["a"])
    assert torch.equal(interpolate(student, teacher, 0.0)["a"], teacher["a"])
    assert interpolate(student, teacher, 0.5)["n"] == 3


def test_interpolation_of_wrong_input():
    state = {"a": torch.zeros(2)}
    with pytest.raises(InputError, match=r"alpha is 1\.5"):
        interpolate(state, state, 1.5)
    with pytest.raises(InputError, match="1 missing: a; 1 unexpected: b"):
        interpolate({"b": torch.zeros(2)}, state, 0.5)


# ---- content hash ----


def test_content_hash_stands_for_names_shapes_types_and_values():
    state = {"a": torch.arange(6.0), "b": torch.tensor(3), "c": torch.zeros(0, 2), "d": torch.tensor([True, False])}
    first = module.content_hash(state)
    assert len(first) == 16 and module.content_hash({k: v.clone() for k, v in state.items()}) == first
    assert module.content_hash(dict(reversed(state.items()))) == first  # in any order
    changed = [
        {**state, "a": state["a"].nextafter(torch.tensor(9.0))},
        {**state, "a": state["a"].view(2, 3)},
        {**state, "a": state["a"].double()},
        {**state, "b": torch.tensor(4)},
        {**state, "c": torch.zeros(0, 3)},
        {**state, "d": torch.tensor([True, True])},
        {("e" if k == "a" else k): v for k, v in state.items()},
        {k: v for k, v in state.items() if k != "b"},
    ]
    hashes = {first, module.content_hash(state, "salt"), *map(module.content_hash, changed)}
    assert len(hashes) == 2 + len(changed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_content_hash_of_every_type_and_of_views(dtype):
    value = torch.randint(0, 9, (4, 6)).to(dtype)
    assert module.content_hash({"a": value}) == module.content_hash({"a": value.T.contiguous().T})


def test_content_hash_of_a_parameter():
    value = torch.randn(3)
    assert module.content_hash({"a": nn.Parameter(value)}) == module.content_hash({"a": value})
