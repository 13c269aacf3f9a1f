import itertools
import logging
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipself_d2.data import (
    DistillationMapper,
    EpochBatchSampler,
    build_test_loader,
    build_train_loader,
    load_image_list,
    read_image,
)
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions
from tests.data.make import write_images


def take(iterable, count):
    return list(itertools.islice(iterable, count))


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99), st.integers(0, 20))
def test_union_of_the_ranks_is_the_one_rank_batch(size, share, world, seed, start):
    whole = take(EpochBatchSampler(size, share * world, seed), start + 5)[start:]
    parts = [take(EpochBatchSampler(size, share * world, seed, r, world, start), 5) for r in range(world)]
    for step in range(5):
        assert [pair for part in parts for pair in part[step]] == whole[step]


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 99))
def test_every_epoch_sees_every_record_once(size, batch, seed):
    draws = [pair for part in take(EpochBatchSampler(size, batch, seed), 3 * size) for pair in part]
    assert [draw for _, draw in draws] == list(range(len(draws)))
    for epoch in range(3):
        assert sorted(index for index, _ in draws[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_differ():
    def order(seed, epoch):
        return [index for [(index, _)] in take(EpochBatchSampler(50, 1, seed), 50 * (epoch + 1))[-50:]]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


def test_uneven_share_is_refused():
    with pytest.raises(InputError, match="total_batch_size 6"):
        EpochBatchSampler(10, 6, 0, rank=0, world_size=4)


@pytest.fixture
def records(tmp_path):
    return load_image_list(write_images(tmp_path / "photos", 10), tmp_path / "photos")


def flat(batches):
    return [[(s["image_id"], s["regions"].tensor.tolist(), s["image"].sum().item()) for s in b] for b in batches]


def train(records, workers=0, start_iter=0, seed=3):
    return build_train_loader(records, DistillationMapper(GridRegions()), 4, seed, workers, start_iter)


def test_workers_and_resuming_change_nothing(records):
    straight = flat(take(train(records), 8))
    assert flat(take(train(records, workers=2), 8)) == straight
    assert flat(take(train(records, start_iter=5), 3)) == straight[5:]
    assert flat(take(train(records, workers=1, start_iter=3), 5)) == straight[3:]
    assert flat(take(train(records, seed=4), 8)) != straight


def test_loading_leaves_the_global_generators_alone(records):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    take(train(records), 3)
    assert torch.equal(torch.rand(1), expected)


def test_an_image_seen_again_gets_new_regions(records):
    batches = flat(take(train(records), 25))
    regions = {str(r) for b in batches for i, r, _ in b if i == 0}
    assert len(regions) > 5


def break_images(records, *indices):
    for index in indices:
        file = Path(records[index]["file_name"])
        file.write_bytes(file.read_bytes()[:40])


def naive_order(size, seed, draw, broken):
    """The readable record of a draw: it, or the next in the shuffled order of its epoch."""
    order = [index for [(index, _)] in take(EpochBatchSampler(size, 1, seed), draw // size * size + size)][-size:]
    position = draw % size
    while order[position] in broken:
        position = (position + 1) % size
    return order[position]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_by_the_next_warned_about_and_counted(records, caplog, workers):
    straight = flat(take(train(records), 6))
    break_images(records, 3)
    loader = train(records, workers)
    with caplog.at_level(logging.WARNING):
        batches = flat(take(loader, 6))
    assert [len(batch) for batch in batches] == [4] * 6
    for draw, (sample, before) in enumerate(zip(chain(*batches), chain(*straight), strict=True)):
        assert sample[0] == naive_order(10, 3, draw, {3})
        assert sample == before or before[0] == 3
    assert loader.num_unreadable == sum(s[0] == 3 for batch in straight for s in batch) >= 2
    assert caplog.text.count("3.png") == 1


def test_replaced_images_do_not_depend_on_ranks_workers_or_resuming(records, monkeypatch):
    break_images(records, 2, 7)

    def tolerant(workers=0, start_iter=0):
        mapper = DistillationMapper(GridRegions())
        return build_train_loader(records, mapper, 4, 3, workers, start_iter, max_unreadable=0.2)

    straight = flat(take(tolerant(), 8))
    assert {s[0] for batch in straight for s in batch} == set(range(10)) - {2, 7}
    assert flat(take(tolerant(2), 8)) == straight
    assert flat(take(tolerant(start_iter=5), 3)) == straight[5:]
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        parts.append(flat(take(tolerant(), 8)))
    assert [a + b for a, b in zip(*parts, strict=True)] == straight


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_are_an_error(records, workers):
    break_images(records, 2, 7)
    with pytest.raises(InputError, match=r"2 of 10 images cannot be read, more than max_unreadable=0\.01.*png"):
        take(train(records, workers), 8)
    with pytest.raises(InputError, match="2 of 10"):
        take(build_test_loader(records, lambda r: {"id": read_image(r["file_name"])}, workers), 10)


def test_a_folder_of_broken_images_is_an_error_at_once(records):
    for count in (1, 10):
        for record in records[:count]:
            record["file_name"] += ".missing"
        with pytest.raises(InputError, match="cannot be read"):
            take(train(records[:count]), 1)


def test_a_share_of_broken_images_is_an_error(records, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 10)
    break_images(records, 1)
    loader = build_test_loader(records, lambda r: {"id": read_image(r["file_name"])}, 0)
    with pytest.raises(InputError, match=r"none of the images can be read; one of them: .*1\.png"):
        list(loader)


def test_the_fraction_is_checked(records):
    with pytest.raises(InputError, match="max_unreadable=2"):
        build_test_loader(records, lambda r: r, 0, max_unreadable=2)


def test_evaluation_leaves_a_broken_image_out(records, caplog):
    break_images(records, 4)
    loader = build_test_loader(records, lambda r: {"id": r["image_id"], "image": read_image(r["file_name"])}, 0)
    assert [s["id"] for batch in loader for s in batch] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert loader.num_unreadable == 1 and "4.png" in caplog.text


class WrongMapper:
    """Has a bug, or meets wrong annotations."""

    def __init__(self, error):
        self.error = error

    def __call__(self, record, rng=None):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_surface(records, workers):
    with pytest.raises(ZeroDivisionError):
        take(build_train_loader(records, WrongMapper(ZeroDivisionError()), 2, 0, workers), 1)
    with pytest.raises(InputError, match=r"^wrong annotations$"):
        take(build_train_loader(records, WrongMapper(InputError("wrong annotations")), 2, 0, workers), 1)


def test_mapper_is_checked_against_the_data_set(records):
    class Mapper(WrongMapper):
        def check(self, records):
            raise InputError(f"{len(records)} records")

    with pytest.raises(InputError, match="10 records"):
        build_train_loader(records, Mapper(None), 2, 0, 0)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (2, 1), (0, 4)])
def test_test_loader_keeps_order(records, workers, batch_size):
    Image.new("RGB", (5, 5)).save(records[1]["file_name"])
    test_loader = build_test_loader(records, lambda r: {"id": r["image_id"]}, workers, batch_size)
    assert len(test_loader) == -(-10 // batch_size)
    assert [s["id"] for batch in test_loader for s in batch] == list(range(10))


def test_ranks_share_the_test_set(records, monkeypatch):
    seen = []
    for rank in range(3):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
        share = [s["id"] for b in build_test_loader(records, lambda r: {"id": r["image_id"]}, 0) for s in b]
        assert share == list(range(share[0], share[0] + len(share)))
        seen += share
    assert Counter(seen) == Counter(range(10))


def test_two_ranks_load_what_one_does(records, monkeypatch):
    whole = flat(take(train(records), 4))
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        parts.append(flat(take(train(records), 4)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_regions_do_not_depend_on_numpy_global_state(records):
    np.random.seed(1)  # noqa: NPY002
    first = flat(take(train(records), 2))
    np.random.seed(2)  # noqa: NPY002
    assert flat(take(train(records), 2)) == first


def test_workers_stay_and_pin_where_a_gpu_is_in_use(records, monkeypatch):
    assert not train(records, workers=1).loader.pin_memory
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    for workers in (0, 1):
        test = build_test_loader(records, DistillationMapper(GridRegions()), workers)
        for wrapped in (train(records, workers).loader, test.loader):
            assert wrapped.pin_memory == wrapped.persistent_workers == (workers > 0)


def test_workers_that_stay_begin_each_pass_anew(records):
    test = build_test_loader(records, lambda r: {"id": r["image_id"]}, 1)
    take(test, 3)
    assert [s["id"] for batch in test for s in batch] == list(range(10))
