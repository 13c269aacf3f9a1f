"""PyTorch's files are read to the bit, and none of them is executed."""

import io
import pickle
import random
import signal
import time
import zipfile

import pytest
import torch
from torch import nn

from clipself_d2.clip import read_checkpoint
from clipself_d2.clip.archive import read_archive
from clipself_d2.clip.checkpoint import save_tensors
from clipself_d2.errors import InputError

from . import hostile


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert state[key].dtype == value.dtype and torch.equal(state[key], value), key


class Block(nn.Module):
    """What OpenAI's blocks have: half-precision weights, a mask that is no buffer, a bias that is None."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4, bias=False).half()
        self.norm = nn.BatchNorm1d(4)
        self.attn_mask = torch.full((2, 2), float("-inf"))
        self.sizes = [2, 3]

    def forward(self, x):
        return self.norm(x) + self.attn_mask.sum()


class Multimodal(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(Block(), Block())
        self.text_projection = nn.Parameter(torch.randn(3, 5).half().T)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("vocab_size", torch.tensor(49408))
        self.register_buffer("empty", torch.zeros(0, 3))

    def forward(self, x):
        return self.visual(x) * self.logit_scale


@pytest.mark.parametrize("compile", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(2, 4))], ids=["s", "t"])
def test_a_torchscript_archive_is_its_modules_state_dict(tmp_path, compile):
    torch.jit.save(compile(Multimodal().eval()), tmp_path / "clip.pt")
    expected = torch.jit.load(tmp_path / "clip.pt").state_dict()
    assert "visual.1.norm.num_batches_tracked" in expected and "visual.0.attn_mask" not in expected
    assert_equal(read_archive(tmp_path / "clip.pt"), expected)


def test_an_archive_before_buffers_were_declared(tmp_path):
    torch.jit.save(torch.jit.script(Multimodal()), tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            lines = new.read(name).split(b"\n")
            kept = [line for line in lines if b"__buffers__" not in line] if name.endswith(".py") else lines
            old.writestr(name, b"\n".join(kept))
    expected = torch.jit.load(tmp_path / "new.pt").state_dict()
    state = read_archive(tmp_path / "old.pt")
    assert state.keys() - expected.keys() == {"visual.0.attn_mask", "visual.1.attn_mask"}
    assert_equal({key: state[key] for key in expected}, expected)


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_what_torch_saves_is_read_to_the_bit(tmp_path, options):
    table = torch.randn(6, 4)
    state = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()  # an OrderedDict with attributes
    state |= {"transposed": table.T, "part": table[1:3, ::2], "empty": torch.zeros(0, 2), "number": torch.tensor(3)}
    state |= {str(dtype): (table * 9).to(dtype) for dtype in (torch.half, torch.bfloat16, torch.double, torch.uint8)}
    state["parameter"] = nn.Parameter(torch.ones(2))
    content = {
        "state_dict": state,
        "epoch": 3,
        "lr": 0.5,
        "note": ["a", None, True, (1, -2)],
        7: "seven",
        "size": table.shape,
    }
    torch.save(content, tmp_path / "a.pt", **options)
    read = read_archive(tmp_path / "a.pt")
    assert_equal(read.pop("state_dict"), content.pop("state_dict"))
    assert read == content


def test_hostile_files(tmp_path):
    """Nothing runs, nothing is written, nothing hangs, and the answer is one line."""
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    count, slowest = 0, 0.0

    def hang(*_):
        raise KeyboardInterrupt(name)

    previous = signal.signal(signal.SIGALRM, hang)
    try:
        for name, content in hostile.files(canary):
            path.write_bytes(content)
            signal.alarm(60)  # this machine may be slow; a hang is forever
            start = time.process_time()
            with pytest.raises(InputError) as caught:
                read_checkpoint(path)
                pytest.fail(f"{name}: was read")
            slowest = max(slowest, time.process_time() - start)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 600, name
            assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"], name
            count += 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert count >= 170 and slowest < 20


def test_the_hostile_archive_is_one(tmp_path):
    """torch.jit.load would have written."""
    torch.jit.save(torch.jit.script(hostile.Writes(str(tmp_path / "canary"))), tmp_path / "weights.pt")
    torch.jit.load(tmp_path / "weights.pt")
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["zip", "torchscript", "safetensors"])
def test_a_flipped_bit_is_noticed(tmp_path, kind):
    """40 flips per format: each is refused, or was in a byte that means nothing (a date, padding)."""
    module, path = nn.Linear(100, 100), tmp_path / "weights"
    state = dict(module.state_dict())
    if kind == "zip":
        torch.save(state, path)
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(module), path)
    else:
        save_tensors(state, path)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(40):
        damaged, place = bytearray(whole), draw.randrange(len(whole))
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert_equal(read_checkpoint(path), state)
        except InputError:
            refused += 1
    assert refused >= 36


def test_a_change_of_the_values_alone_is_noticed(tmp_path):
    save_tensors({"visual.proj": torch.ones(4, 4)}, tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.safetensors: damaged"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_an_unlisted_storage_of_an_old_file(tmp_path):
    out = io.BytesIO()
    torch.save({"visual.proj": torch.ones(2)}, out, _use_new_zipfile_serialization=False)
    (tmp_path / "a.pt").write_bytes(out.getvalue()[:-4])
    with pytest.raises(InputError, match="truncated"):
        read_archive(tmp_path / "a.pt")


def test_a_pickle_of_something_else(tmp_path):
    head = [0x1950A86A20F9469CFC6C, 1001]
    files = {
        "not one that PyTorch wrote": [1, 2],
        "big-endian": [*head, {"little_endian": False}],
    }
    for message, parts in files.items():
        (tmp_path / "a.pth").write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
        with pytest.raises(InputError, match=message):
            read_archive(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(hostile.legacy(b"\x80\x02]}b."))  # attributes of a list
    with pytest.raises(InputError, match="attributes to a list"):
        read_archive(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(hostile.zipped(b"\x80\x02"))
    with pytest.raises(InputError, match=r"truncated|damaged"):
        read_archive(tmp_path / "a.pth")
