"""The store against a dictionary; crashes, damage, several writers, and the budget."""

import errno
import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipself_d2.data import embedding_store
from clipself_d2.data.embedding_shard import HEADER_BYTES, DamagedShardError, Shard, bytes_of_rows, write_shard
from clipself_d2.data.embedding_store import EmbeddingStore
from clipself_d2.errors import InputError

DIM = 6
ROOT = Path(__file__).parents[2]


def key(number: int) -> bytes:
    return hashlib.md5(str(number).encode()).digest()


def row(number: int, dim: int = DIM) -> np.ndarray:
    return (np.arange(dim) + number).astype(np.float16)


def fill(store: EmbeddingStore, numbers) -> None:
    numbers = list(numbers)
    store.add([key(n) for n in numbers], np.stack([row(n) for n in numbers]))


def found(store: EmbeddingStore, numbers) -> list[int]:
    """The numbers that the store has; what it gives must be right."""
    numbers = list(numbers)
    rows, there = store.get([key(n) for n in numbers])
    for n, values, hit in zip(numbers, rows, there, strict=True):
        assert np.array_equal(values, row(n) if hit else np.zeros(DIM)), n
    return [n for n, hit in zip(numbers, there, strict=True) if hit]


def open_store(folder, **more) -> EmbeddingStore:
    return EmbeddingStore(folder, "a", DIM, **{"budget_bytes": 1e9, "refresh_seconds": 0, **more})


def shards(folder) -> list[Path]:
    return sorted((folder / "a").glob("[!.]*.shard"))


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_it_is_a_dictionary(tmp_path_factory, batches, shard_rows, seed):
    folder, rng, expected = tmp_path_factory.mktemp("store"), np.random.default_rng(seed), set()
    store = open_store(folder, shard_rows=shard_rows)
    for batch in batches:
        if batch:
            fill(store, batch)
        expected |= set(batch)
        asked = rng.integers(0, 70, rng.integers(0, 20)).tolist()
        assert found(store, asked) == [n for n in asked if n in expected]
        if rng.random() < 0.3:
            store.flush()
        if rng.random() < 0.2:
            del store
            store = open_store(folder, shard_rows=shard_rows)
    assert found(store, range(70)) == sorted(expected)
    store.flush()
    assert found(open_store(folder), range(70)) == sorted(expected)


def test_keys_that_share_a_half_are_told_apart(tmp_path):
    keys = [b"\1" * 8 + b"\2" * 8, b"\1" * 8 + b"\3" * 8, b"\3" * 8 + b"\2" * 8]
    store = open_store(tmp_path)
    store.add(keys[1:2], row(1)[None])
    store.flush()
    assert store.get(keys)[1].tolist() == [False, True, False]


def test_files_are_mapped_not_read(tmp_path):
    rows = np.random.default_rng(0).standard_normal((2**15, 512)).astype(np.float16)
    shard = Shard(write_shard(tmp_path, [key(n) for n in range(len(rows))], rows))
    base = shard.rows
    while not isinstance(base, np.memmap):
        base = base.base
    there, values = shard.get(np.frombuffer(key(77) + key(10**6), "<u8").reshape(2, 2))
    assert there.tolist() == [True, False] and np.array_equal(values[0], rows[77])
    shard.verify()
    # What reads together lies together: rows are in the order in which they came.
    assert np.array_equal(shard.rows, rows)


def test_another_process_sees_what_is_written(tmp_path):
    ours, theirs, patient = open_store(tmp_path), open_store(tmp_path), open_store(tmp_path, refresh_seconds=1e9)
    fill(ours, range(5))
    assert found(theirs, range(9)) == []
    ours.flush()
    assert found(theirs, range(9)) == [0, 1, 2, 3, 4]
    assert found(patient, range(9)) == []
    fill(theirs, range(3, 9))
    theirs.flush()
    assert found(ours, range(9)) == list(range(9))


def write_share(folder, rank: int) -> None:
    store = open_store(folder, shard_rows=7)
    for start in range(0, 100, 10):
        fill(store, range(1000 * (rank // 2) + start, 1000 * (rank // 2) + start + 10))  # two write the same
        time.sleep(0.001)


def test_writers_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_share, args=(tmp_path, rank)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    expected = [*range(100), *range(1000, 1100)]
    assert found(open_store(tmp_path), expected) == expected


def write_on(folder, written) -> None:
    store = open_store(folder, shard_rows=64)
    for start in range(0, 10**9, 16):
        fill(store, range(start, start + 16))
        written.value = start + 16


def test_a_kill_loses_the_unfinished_shard_and_nothing_else(tmp_path):
    context = multiprocessing.get_context("fork")
    for _ in range(4):
        written = context.Value("q", 0)
        process = context.Process(target=write_on, args=(tmp_path, written))
        process.start()
        while written.value < 640:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = found(open_store(tmp_path), range(written.value + 64))
        whole = list(range(written.value // 64 * 64))
        assert there[: len(whole)] == whole


def test_what_is_held_is_written_when_the_process_ends(tmp_path):
    source = f"""
import numpy as np
from clipself_d2.data.embedding_store import EmbeddingStore
store = EmbeddingStore({str(tmp_path)!r}, "a", {DIM}, 1e9)
store.add([{key(3)!r}], np.arange(3, {DIM} + 3)[None])
"""
    subprocess.run([sys.executable, "-c", source], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found(open_store(tmp_path), range(5)) == [3]


def test_what_is_held_is_written_when_the_store_goes(tmp_path):
    store = open_store(tmp_path)
    fill(store, range(5))
    assert not shards(tmp_path)
    del store
    assert found(open_store(tmp_path), range(9)) == list(range(5))


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("length", [0, 5, 100, 200, -1])
def test_a_cut_off_shard_is_left_out_with_one_warning(tmp_path, caplog, length):
    for start in (0, 10):
        fill(store := open_store(tmp_path), range(start, start + 10))
        store.flush()
    first = next(p for p in shards(tmp_path) if Shard(p).rows[0, 0] == 0)
    content = first.read_bytes()
    first.write_bytes(content[:length])
    del store
    store = open_store(tmp_path)
    for _ in range(3):
        assert found(store, range(20)) == list(range(10, 20))
    assert len(warnings(caplog)) == 1 and str(first) in warnings(caplog)[0]


@settings(max_examples=40)
@given(st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    path = write_shard(folder, [key(n) for n in range(20)], np.stack([row(n) for n in range(20)]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    keys = np.frombuffer(b"".join(key(n) for n in range(20)), "<u8").reshape(-1, 2)
    try:
        there, rows = Shard(path).get(keys)
    except DamagedShardError:
        return
    assert there.all() and np.array_equal(rows, [row(n) for n in range(20)])  # a bit of the header's padding


def test_an_altered_row_is_never_given(tmp_path, caplog):
    fill(store := open_store(tmp_path), range(10))
    store.flush()
    [path] = shards(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 64  # of row 9
    path.write_bytes(content)
    store = open_store(tmp_path)
    assert found(store, range(5)) == list(range(5))
    assert found(store, range(10)) == []
    fill(store, range(10))
    assert found(store, range(10)) == list(range(10))
    assert len(warnings(caplog)) == 1


def test_a_file_of_another_kind(tmp_path, caplog):
    fill(store := open_store(tmp_path), range(3))
    store.flush()
    np.save(tmp_path / "a/other.npy", np.zeros(3))
    (tmp_path / "a/other.npy").rename(tmp_path / "a/other.shard")
    assert found(open_store(tmp_path), range(3)) == [0, 1, 2]
    assert len(warnings(caplog)) == 1


def many(folder, count: int, first: int = 0) -> None:
    store = open_store(folder)
    for n in range(first, first + count):
        fill(store, range(3 * n, 3 * n + 3))
        store.flush()


def test_small_shards_are_merged_by_whoever_is_alone(tmp_path, monkeypatch):
    many(tmp_path, 40)
    assert len(shards(tmp_path)) == 40
    (tmp_path / "a/.left.shard.0123.shard").write_bytes(b"of a killed writer")
    store = open_store(tmp_path)
    [merged] = shards(tmp_path)
    assert found(store, range(130)) == list(range(120))
    assert {p.name for p in (tmp_path / "a").iterdir()} == {merged.name, ".lock"}

    del store
    many(tmp_path, 20, first=40)
    monkeypatch.setattr(embedding_store, "_MERGED_ROWS", 40)
    store = open_store(tmp_path)  # 60 rows in 20 shards; the merged one of 120 is large by now
    assert found(store, range(190)) == list(range(180))
    assert merged in shards(tmp_path) and len(shards(tmp_path)) == 3


def test_nothing_is_merged_under_a_reader(tmp_path):
    many(tmp_path, 40)
    reader = open_store(tmp_path)  # merges
    many(tmp_path, 40, first=40)
    before = shards(tmp_path)
    assert found(open_store(tmp_path), range(240)) == found(reader, range(240)) == list(range(240))
    assert shards(tmp_path) == before and len(before) == 41


def test_a_damaged_shard_is_not_merged(tmp_path, caplog):
    many(tmp_path, 20)
    path = shards(tmp_path)[7]
    numbers = {int(first) for first in Shard(path).rows[:, 0]}
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    assert found(open_store(tmp_path), range(60)) == [n for n in range(60) if n not in numbers]
    assert path in shards(tmp_path) and len(shards(tmp_path)) == 2
    assert len(warnings(caplog)) == 1


def test_without_locks_nothing_is_merged(tmp_path, monkeypatch):
    many(tmp_path, 20)

    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(embedding_store.fcntl, "flock", refuse)
    assert found(open_store(tmp_path), range(60)) == list(range(60))
    assert len(shards(tmp_path)) == 20


@pytest.mark.parametrize("room", [0, 1, 7])
def test_the_budget_is_kept(tmp_path, caplog, room):
    other = EmbeddingStore(tmp_path, "b", 4, 1e9)
    other.add([key(0)], np.ones((1, 4), np.float16))
    other.flush()
    used = sum(p.stat().st_size for p in tmp_path.rglob("*.shard"))
    budget = used + HEADER_BYTES + bytes_of_rows(room, DIM) + 3
    store = open_store(tmp_path, budget_bytes=budget)
    assert not store.full
    for _ in range(3):
        fill(store, range(10))
        store.flush()
    assert store.full
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.shard")) <= budget
    assert found(store, range(10)) == list(range(room))
    assert len(warnings(caplog)) == 1 and "budget" in warnings(caplog)[0]


def test_a_full_disk_stops_adding_not_the_run(tmp_path, caplog, monkeypatch):
    store = open_store(tmp_path)
    fill(store, range(4))
    store.flush()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedding_store, "write_shard", refuse)
    for start in (4, 8):
        fill(store, range(start, start + 4))
        store.flush()
    assert store.full and found(store, range(12)) == [0, 1, 2, 3]
    assert len(warnings(caplog)) == 1 and "No space left" in warnings(caplog)[0]


def test_wrong_folders_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a: cannot be written to \(Not a directory\)"):
        open_store(tmp_path / "file")
    fill(store := open_store(tmp_path), range(3))
    store.flush()
    with pytest.raises(InputError, match=r"\.shard: holds embeddings of 6 numbers, not 8") as caught:
        EmbeddingStore(tmp_path, "a", 8, 1e9)
    assert "\n" not in str(caught.value)


def test_looking_up_among_many_is_fast(tmp_path):
    rows = np.zeros((50000, 64), np.float16)
    rng = np.random.default_rng(0)
    keys = [rng.bytes(16) for _ in range(len(rows))]
    write_shard(tmp_path / "a", keys, rows)
    store = EmbeddingStore(tmp_path, "a", 64, 1e9)
    start = time.perf_counter()
    for i in range(20):
        assert store.get(keys[i * 100 : i * 100 + 100])[1].all()
    assert (time.perf_counter() - start) / 20 < 0.05


def test_a_shard_is_one_open_file_and_too_many_are_no_damage(tmp_path, caplog):
    """Where the limit of open files is reached, sound shards are neither called damaged nor forgotten."""
    store = open_store(tmp_path, shard_rows=1)
    for n in range(12):
        fill(store, [n])
    assert len(shards(tmp_path)) == 12
    before = len(list(Path("/proc/self/fd").iterdir()))
    again = open_store(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) - before == 12 + 1  # and the lock
    assert len(again) == len(store) == 12
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)

    real, calls = Shard.__init__, []

    def limited(self, path):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(errno.EMFILE, "Too many open files")
        real(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shard, "__init__", limited)
        third = open_store(tmp_path)
    [warning] = [r.getMessage() for r in caplog.records]
    assert "Too many open files" in warning and "remove" not in warning
    assert len(third) == 3 and found(third, range(12)) == list(range(12))  # the next look opens the others
