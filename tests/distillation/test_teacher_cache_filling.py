"""A cache is filled beforehand or by several processes at once, and every row is the teacher's embedding."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2.data import DistillationMapper
from clipself_d2.distillation import TeacherCache, teacher_cache
from clipself_d2.regions import GridRegions, ProposalRegions, crop_embeddings
from tests.distillation.cached import CROPS, MAPPER, draw, embed, fill
from tests.distillation.tiny import build

# ---- several processes ----


def write_on(model_file, folder, records, written) -> None:
    torch.set_num_threads(1)
    model = build(model_file, teacher_cache=TeacherCache(folder))
    model.teacher_cache.open(records, MAPPER)
    for seed in range(10**6):
        embed(model, draw(records, seed))
        written.value = seed + 1


def start(*args):
    process = multiprocessing.get_context("fork").Process(target=write_on, args=args)
    process.start()
    return process


def test_a_kill_leaves_no_row_that_was_not_written(cached, model_file, images, tmp_path):
    written = multiprocessing.get_context("fork").Value("q", 0)
    process = start(model_file, tmp_path / "cache", images, written)
    while written.value < 2:
        assert process.exitcode is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    model = cached()
    for seed in range(written.value):  # what was written is there
        embed(model, draw(images, seed))
    assert model.calls == []
    fill(model, images)
    assert_right(model, images)


def test_processes_at_once(cached, model_file, images, tmp_path):
    context = multiprocessing.get_context("fork")
    written = [context.Value("q", 0) for _ in range(3)]
    processes = [start(model_file, tmp_path / "cache", images, value) for value in written]
    while min(value.value for value in written) < 3:
        assert all(process.exitcode is None for process in processes)
        time.sleep(0.001)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    model = cached()
    fill(model, images)
    assert_right(model, images)


def assert_right(model, records) -> None:
    """The array is complete, and every row is the teacher's embedding."""
    cache, calls = model.teacher_cache, list(model.calls)
    assert len(cache) == CROPS * len(records)
    for record in records:
        sample = MAPPER.all_crops(record)
        rows = embed(model, [sample])
        with torch.no_grad():
            expected = crop_embeddings.embed_crops(
                model.teacher, [sample["image"]], [sample["crop_boxes"].tensor], model.teacher_size
            )
        assert (rows - expected).abs().max() < 1e-3
    assert sum(model.calls) == sum(calls) + CROPS * len(records)  # the expected ones alone


# ---- filling ----


def test_a_filled_cache_has_every_crop_that_training_draws(cached, images):
    model = cached(opened=False)
    fill(model, images)
    assert sum(model.calls) == 5 * CROPS == len(model.teacher_cache)
    trained = cached().train()
    for seed in range(3):
        assert torch.isfinite(trained(draw(images, seed))["loss_clipself"])
    assert trained.calls == []


def test_a_fill_goes_on_where_it_stopped(cached, images, monkeypatch):
    model = cached(opened=False)
    forward, calls = model.teacher.image_embeddings, []

    def interrupted(pixels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(pixels)

    monkeypatch.setattr(teacher_cache, "_IMAGES", 2)
    monkeypatch.setattr(model.teacher, "image_embeddings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(model, images)
    again = cached(opened=False)
    fill(again, images)
    assert sum(again.calls) == 3 * CROPS


def test_reading_at_reduced_scale_and_a_filled_cache_agree(cached, tmp_path):
    """The smallest cell of a grid of 6 must keep its 16 pixels in every draw, so that all draws see the same image."""
    records = []
    for number, size in enumerate([(576, 432), (400, 600)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(tmp_path / f"{number}.jpg")
        records.append({"file_name": str(tmp_path / f"{number}.jpg"), "image_id": number})
    model, mapper = cached(opened=False), DistillationMapper(GridRegions(), min_decode_size=(64, 16))
    fill(model, records, mapper)
    calls = list(model.calls)
    for seed in range(4):
        samples = draw(records, seed, mapper)
        assert [max(x["image"].shape) for x in samples] == [144, 150]
        model(samples)
    assert model.calls == calls


def test_ranks_share_the_images(cached, images, monkeypatch):
    monkeypatch.setattr(teacher_cache, "_IMAGES", 2)
    calls = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.utils.comm.synchronize", lambda: None)
        model = cached(opened=False)
        fill(model, images)
        calls.append(sum(model.calls))
    assert calls == [3 * CROPS, 2 * CROPS]


def test_a_cache_filled_with_proposals(cached, images, tmp_path):
    boxes = [{"image_id": r["image_id"], "bbox": [i, 2, 9 + 3 * i, 10]} for r in images[1:] for i in range(6)]
    (tmp_path / "p.json").write_text(json.dumps({"annotations": boxes}))
    mapper = DistillationMapper(ProposalRegions(tmp_path / "p.json", max_regions=3))
    model = cached(opened=False)
    fill(model, images, mapper)
    assert sum(model.calls) == 4 * 6 + 1  # the first image has the fallback alone
    for seed in range(3):
        model(draw(images, seed, mapper))
    assert sum(model.calls) == 25
