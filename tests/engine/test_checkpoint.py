import logging
import pickle

import pytest
import torch
from torch import nn

from clipself_d2.engine import checkpoint
from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.errors import CheckpointError
from clipself_d2.errors import InputError


@pytest.fixture(autouse=True)
def _propagate_logs():
    # A run's set-up takes the package's logger out of the root's hands, where caplog listens.
    logging.getLogger("clipself_d2").propagate = True


def make(folder, max_to_keep=3):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer, Checkpointer(folder, max_to_keep, model=model, optimizer=optimizer)


def test_round_trip(tmp_path):
    model, optimizer, checkpointer = make(tmp_path)
    checkpointer.save(7)
    other, other_optimizer, other_checkpointer = make(tmp_path)
    assert other_checkpointer.resume() == 7
    assert torch.equal(other.weight, model.weight)
    state, other_state = optimizer.state_dict(), other_optimizer.state_dict()
    assert state["param_groups"] == other_state["param_groups"]
    for key, values in state["state"].items():
        assert all(torch.equal(values[name], other_state["state"][key][name]) for name in values)


def test_an_empty_folder_has_nothing_to_resume(tmp_path):
    assert make(tmp_path / "missing")[2].resume() is None


def test_only_the_newest_stay(tmp_path):
    checkpointer = make(tmp_path, max_to_keep=2)[2]
    for iteration in (5, 10, 15, 20):
        checkpointer.save(iteration)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint_0000015.pth", "checkpoint_0000020.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == "checkpoint_0000020.pth"


def full_disk(state, file):
    file.write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


def test_a_full_disk_spares_the_last_good_checkpoint(tmp_path, monkeypatch, caplog):
    model, _, checkpointer = make(tmp_path)
    checkpointer.save(5)
    good = model.weight.clone()
    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with torch.no_grad():
        model.weight.zero_()
    checkpointer.save(10)
    assert "No space left on device" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_0000005.pth", "last_checkpoint"]
    monkeypatch.undo()
    assert checkpointer.resume() == 5
    assert torch.equal(model.weight, good)


def test_a_full_disk_at_the_end_is_an_error(tmp_path, monkeypatch):
    checkpointer = make(tmp_path)[2]
    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(CheckpointError, match=r"checkpoint_0000010\.pth.*No space left"):
        checkpointer.save(10, required=True)


def test_a_truncated_file_falls_back_to_the_one_before(tmp_path, caplog):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    checkpointer.save(10)
    newest = tmp_path / "checkpoint_0000010.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert checkpointer.resume() == 5
    assert "checkpoint_0000010.pth is not readable" in caplog.text


def test_unreadable_checkpoints_are_not_overwritten_by_a_new_run(tmp_path):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    newest = tmp_path / "checkpoint_0000005.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(InputError, match="none of its 1 checkpoints is readable"):
        checkpointer.resume()


def test_a_file_that_cannot_be_opened_is_not_damaged(tmp_path, monkeypatch):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    checkpointer.save(10)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint.torch, "load", refuse)
    with pytest.raises(PermissionError):
        checkpointer.resume()


def test_what_was_just_saved_stays_beside_later_checkpoints(tmp_path):
    checkpointer = make(tmp_path, max_to_keep=2)[2]
    for name in ("0000050", "0000060", "0000070"):
        (tmp_path / f"checkpoint_{name}.pth").write_bytes(b"damaged")
    for iteration in (5, 10, 15):
        checkpointer.save(iteration)
    assert not (tmp_path / "checkpoint_0000005.pth").exists()
    assert all((tmp_path / f"checkpoint_{name}.pth").exists() for name in ("0000010", "0000015", "0000070"))
    assert checkpointer.resume() == 15


def test_a_stale_pointer_falls_back_to_the_newest(tmp_path, caplog):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    checkpointer.save(10)
    (tmp_path / "last_checkpoint").write_text("checkpoint_0000099.pth")
    assert checkpointer.resume() == 10
    assert "checkpoint_0000099.pth, which does not exist" in caplog.text


def test_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    (tmp_path / "checkpoint_0000006.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"model": Bomb()}, tmp_path / "checkpoint_0000007.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.resume() == 5
    assert not (tmp_path / "ran").exists()


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".checkpoint_0000003.pth.abc.pth").write_bytes(b"x")
    make(tmp_path)[2].save(5)
    assert not (tmp_path / ".checkpoint_0000003.pth.abc.pth").exists()


def test_another_model_is_said_in_one_line(tmp_path):
    make(tmp_path)[2].save(5)
    other = nn.Linear(4, 2)
    with pytest.raises(InputError, match="does not fit this config's model") as caught:
        Checkpointer(tmp_path, model=other).resume()
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="init_checkpoint"):
        load_model(other, tmp_path / "checkpoint_0000005.pth")
    with pytest.raises(InputError, match="init_checkpoint"):
        load_model(other, tmp_path / "missing.pth")


def test_init_checkpoint_loads_the_model_alone(tmp_path):
    model, _, checkpointer = make(tmp_path)
    checkpointer.save(5)
    other = nn.Linear(3, 2)
    load_model(other, tmp_path / "checkpoint_0000005.pth")
    assert torch.equal(other.weight, model.weight)


def test_named_parts_of_init_checkpoint_are_left_out(tmp_path):
    whole = nn.ModuleDict({"body": nn.Linear(3, 2), "mask_head": nn.Linear(2, 2)})
    Checkpointer(tmp_path, model=whole).save(5)
    body = nn.ModuleDict({"body": nn.Linear(3, 2)})
    with pytest.raises(InputError, match=r"Unexpected.*mask_head"):
        load_model(body, tmp_path / "checkpoint_0000005.pth")
    load_model(body, tmp_path / "checkpoint_0000005.pth", ["mask_head."])
    assert torch.equal(body["body"].weight, whole["body"].weight)
    with pytest.raises(InputError, match=r"train.init_without: it has no 'maskhead.'"):
        load_model(body, tmp_path / "checkpoint_0000005.pth", ["maskhead."])
    with pytest.raises(InputError, match="Missing"):
        load_model(body, tmp_path / "checkpoint_0000005.pth", ["mask_head.", "body."])
