"""A cache of another use, or a damaged one, is refused in one line."""

import os
import shutil

import pytest
import torch

from clipself_d2.data import DistillationMapper
from clipself_d2.distillation import open_teacher_cache, teacher_cache
from clipself_d2.errors import InputError
from clipself_d2.regions import GridRegions
from tests.distillation.cached import CROPS, MAPPER, count, embed


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
