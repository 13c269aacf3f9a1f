"""A cached teacher gives what the teacher gives, and sees each crop once."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipself_d2.data import DistillationMapper, load_image_list
from clipself_d2.distillation import TeacherCache, open_teacher_cache, teacher_cache
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions, ProposalRegions, crop_and_resize, crop_embeddings
from tests.distillation.tiny import build, perturb, write_model, write_photographs

MAPPER = DistillationMapper(GridRegions(max_split=3))
CROPS = sum(rows * columns for rows in (1, 2, 3) for columns in (1, 2, 3) if rows <= 2 * columns <= 4 * rows)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path):
    write_photographs(tmp_path, 5)
    return load_image_list(None, tmp_path / "coco/unlabeled2017")


@pytest.fixture
def batch(images):
    return draw(images, 0)


@pytest.fixture
def cached(model_file, tmp_path, images, monkeypatch):
    """Builds CLIPSelf with the cache of the test, open; `calls` lists how many crops its teacher was given."""

    def make(seed=0, folder="cache", mapper=MAPPER, opened=True, budget_gb=50.0, **kwargs):
        model = build(model_file, seed, teacher_cache=TeacherCache(tmp_path / folder, budget_gb), **kwargs)
        if opened:
            model.teacher_cache.open(images, mapper)
        return spy(model, monkeypatch)

    return make


def spy(model, monkeypatch):
    model.calls = []
    forward = model.teacher.image_embeddings

    def count(pixels):
        model.calls.append(len(pixels))
        return forward(pixels)

    monkeypatch.setattr(model.teacher, "image_embeddings", count)
    return model


def draw(records, seed, mapper=MAPPER):
    return [mapper(record, np.random.default_rng([seed, i])) for i, record in enumerate(records)]


def count(batch):
    return sum(len(x["crop_ids"]) for x in batch)


def embed(model, batch):
    return model.embed_crops([x["image"] for x in batch], [x["crop_boxes"].tensor for x in batch], batch)


# ---- what it gives ----


def test_the_array_never_calls_the_teacher_and_gives_the_same_bits(cached, batch):
    model = cached()
    first = embed(model, batch)
    assert model.calls == [count(batch)]
    assert torch.equal(embed(model, batch), first)
    again = cached()
    assert torch.equal(embed(again, batch), first)
    assert model.calls == [count(batch)] and again.calls == []
    assert first.dtype == torch.float32
    torch.testing.assert_close(first.norm(dim=1), torch.ones(len(first)), rtol=0, atol=1e-6)


def test_a_cached_step_is_an_uncached_one_but_for_fp16(model_file, cached, batch):
    plain, ours = embed(build(model_file), batch), embed(cached(), batch)
    torch.testing.assert_close(ours, plain, rtol=2**-10, atol=2**-24)
    assert (1 - (ours * plain).sum(dim=1)).abs().max() < 1e-6
    losses, grads = [], []
    for model in (build(model_file), cached(), cached()):
        perturb(model)
        losses.append(model(batch)["loss_clipself"])
        losses[-1].backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    assert torch.equal(losses[1], losses[2])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_only_missing_crops_are_cut_and_embedded(cached, batch):
    model = cached()
    embed(model, batch[1:2])
    mixed = embed(model, batch)
    assert model.calls == [count(batch[1:2]), count(batch[:1] + batch[2:])]
    boxes = [(x, box) for x in batch for box in x["crop_boxes"].tensor]
    for row, (x, box) in zip(mixed, boxes, strict=True):
        pixels = model.teacher.normalize(crop_and_resize(x["image"], box[None], 32))
        with torch.no_grad():
            [one] = F.normalize(model.tower.image_embeddings(pixels), dim=1)
        assert torch.dot(row, one) > 1 - 1e-5


def test_large_batches_are_cut_across_images(cached, batch, monkeypatch):
    monkeypatch.setattr(crop_embeddings, "_CROP_BATCH", 4)
    model = cached()
    embed(model, batch)
    assert max(model.calls) <= 4 and sum(model.calls) == count(batch)
    assert (embed(model, batch) - embed(cached(), batch)).abs().max() < 1e-3


def test_embeddings_that_overflow_are_not_kept(cached, batch, monkeypatch):
    model = cached()
    forward = model.teacher.image_embeddings
    overflow = lambda x: forward(x).index_fill(0, torch.tensor(0), torch.inf)  # noqa: E731
    monkeypatch.setattr(model.teacher, "image_embeddings", overflow)
    embed(model, batch)
    assert len(model.teacher_cache) == count(batch) - 1


def test_nothing_of_it_is_in_the_state_dict(cached, model_file, batch):
    model = cached()
    model(batch)
    assert model.state_dict().keys() == build(model_file).state_dict().keys()
    assert len(list(model.parameters())) == len(list(build(model_file).parameters()))


def test_a_cache_must_be_open_in_the_precision_of_the_call(cached, batch):
    model = cached()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match=r"was opened for torch\.float32"),
    ):
        embed(model, batch)


# ---- rows that do not count ----


def test_a_changed_image_is_embedded_again(cached, images):
    model = cached()
    first = embed(model, draw(images, 0))
    with Image.open(images[1]["file_name"]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images[1]["file_name"], quality=95)
    batch = draw(images, 0)
    model.calls.clear()
    second = embed(model, batch)
    assert model.calls == [count(batch[1:2])]
    changed = torch.tensor([i == 1 for i, x in enumerate(batch) for _ in x["crop_ids"]])
    assert torch.equal(second[~changed], first[~changed]) and not torch.equal(second[changed], first[changed])
    assert torch.equal(embed(cached(), batch), second)


def test_a_crop_of_other_pixels_is_embedded_again(cached, images, tmp_path):
    def mapper(scale):
        boxes = [{"image_id": r["image_id"], "bbox": [9 * i, 2, 9 + 3 * i, 10]} for r in images for i in range(2)]
        (tmp_path / "p.json").write_text(json.dumps({"annotations": boxes}))
        return DistillationMapper(ProposalRegions(tmp_path / "p.json", crop_scale=scale))

    first = cached(mapper=mapper(1.5))
    embed(first, draw(images, 0, mapper(1.5)))
    other = cached(mapper=mapper(2.0))
    embed(other, draw(images, 0, mapper(2.0)))
    assert first.calls == other.calls == [10]


def test_a_damaged_row_is_embedded_again(cached, batch, tmp_path):
    model = cached()
    expected = embed(model, batch)
    row = model.teacher_cache.starts[batch[2]["file_name"]] + int(batch[2]["crop_ids"][0])
    with (tmp_path / "cache/embeddings").open("r+b") as file:
        file.seek(row * model.teacher.embed_dim * 2 + 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    again = cached()
    assert (embed(again, batch) - expected).abs().max() < 1e-3
    assert again.calls == [1]
    assert torch.equal(embed(cached(), batch), embed(again, batch)) and again.calls == [1]


# ---- what is refused, in one line ----


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_use_is_refused(cached, images, tmp_path):
    cached()
    made = rf"{tmp_path}/cache/cache.json: made for"
    assert refusal(cached, seed=1).startswith(f"{made} teacher ")
    assert refusal(cached, teacher_size=16).startswith(
        f"{made} crop_size 32, not 16: name another model.teacher_cache."
    )
    assert refusal(cached, mapper=DistillationMapper(GridRegions(max_split=2))).startswith(f"{made} crops ")
    other = cached(opened=False)
    assert refusal(other.teacher_cache.open, images[:3], MAPPER).startswith(f"{made} crops ")
    assert refusal(other.teacher_cache.open, [*images[1:], images[0]], MAPPER).startswith(f"{made} dataset ")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert refusal(cached).startswith(f"{made} precision torch.float32, not torch.bfloat16")
    other.tower.visual.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    other.teacher_cache.attach(other.tower, 32)
    assert refusal(other.teacher_cache.open, images, MAPPER).startswith(f"{made} teacher ")


def test_new_crops_are_another_recipe(cached, monkeypatch):
    cached()
    monkeypatch.setattr(teacher_cache, "RECIPE", "crop_and_resize 2")
    assert "made for recipe crop_and_resize 1, not crop_and_resize 2" in refusal(cached)


@pytest.mark.parametrize("name", ["embeddings", "checks"])
def test_a_truncated_file_is_refused(cached, tmp_path, name):
    cached()
    file = tmp_path / "cache" / name
    os.truncate(file, file.stat().st_size - 5)
    assert refusal(cached).startswith(f"{file}: has {file.stat().st_size} bytes instead of ")
    file.unlink()
    assert "No such file" in (message := refusal(cached)) and str(file) in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3"])
def test_a_damaged_header_is_refused(cached, tmp_path, text):
    cached()
    (tmp_path / "cache/cache.json").write_text(text)
    assert refusal(cached).startswith(f"{tmp_path}/cache/cache.json: not the header of a teacher cache")


def test_the_budget_and_the_disk_are_kept(cached, tmp_path, monkeypatch):
    size = 5 * CROPS * (2 * 16 + 8)
    message = refusal(cached, budget_gb=(size - 1) / 1e9)
    assert message.startswith(f"{tmp_path}/cache: {5 * CROPS} crops take ") and "budget_gb is" in message
    assert not (tmp_path / "cache/cache.json").exists()
    cached(budget_gb=size / 1e9)
    cached(budget_gb=1e-9)  # it exists already
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, size - 1))
    assert "its disk has" in refusal(cached, folder="other")


def test_wrong_values_are_refused(cached, tmp_path):
    assert "model.teacher_cache.budget_gb=0: must be positive" in refusal(open_teacher_cache, "x", budget_gb=0)
    (tmp_path / "file").write_text("")
    message = refusal(cached, folder="file")
    assert message.startswith("model.teacher_cache.folder: ") and f"'{tmp_path}/file" in message


def test_no_folder_no_cache():
    assert open_teacher_cache() is None and open_teacher_cache("") is None


def test_a_full_disk_stops_adding_not_the_run(cached, batch, caplog, monkeypatch):
    model = cached()
    embed(model, batch[:1])

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_cache.os, "pwrite", refuse)
    for _ in range(2):
        embed(model, batch)
    assert model.calls == [count(batch[:1])] + 2 * [count(batch[1:])]
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "No space left" in warning


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


def fill(model, records, mapper=MAPPER) -> None:
    model.teacher_cache.fill(model.embed_crops, records, mapper, 0)


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
