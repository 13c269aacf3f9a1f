import logging
import pickle

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from timm.optim import Muon
from torch import nn

from clipself_d2.engine import checkpoint
from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.errors import CheckpointError, NonFiniteWeightsError
from clipself_d2.engine.resume import OptimizerState
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
    parts = {"model": model, "optimizer": OptimizerState(optimizer, model)}
    return model, optimizer, Checkpointer(folder, max_to_keep, **parts)


def test_round_trip(tmp_path):
    model, optimizer, checkpointer = make(tmp_path)
    checkpointer.save(7)
    other, other_optimizer, other_checkpointer = make(tmp_path)
    assert other_checkpointer.resume() == 7
    assert torch.equal(other.weight, model.weight)
    state, other_state = optimizer.state_dict(), other_optimizer.state_dict()
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
    assert "checkpoint_0000010.pth cannot be used" in caplog.text


def test_unreadable_checkpoints_are_not_overwritten_by_a_new_run(tmp_path):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    newest = tmp_path / "checkpoint_0000005.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(InputError, match="none of its 1 checkpoints can be used"):
        checkpointer.resume()


def test_a_file_that_cannot_be_opened_is_not_damaged(tmp_path, monkeypatch):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    checkpointer.save(10)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "read_archive", refuse)
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


def test_each_flipped_bit_is_noticed(tmp_path):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    path = tmp_path / "checkpoint_0000005.pth"
    good = path.read_bytes()
    random = np.random.default_rng(0)
    for position, bit in zip(random.integers(len(good), size=120), random.integers(8, size=120), strict=True):
        content = bytearray(good)
        content[position] ^= 1 << int(bit)
        path.write_bytes(content)
        with pytest.raises(InputError, match="none of its 1 checkpoints can be used"):
            checkpointer.resume()
    path.write_bytes(good)
    assert checkpointer.resume() == 5


def change(path, edit):
    """Write a checkpoint again as torch alone would, with a change."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: state.update(iteration=11),
        lambda state: state.update(iteration="10"),
        lambda state: state.update(model=[1, 2]),
        lambda state: state.update(optimizer=None),
        lambda state: state.pop("optimizer"),
        lambda state: state["model"].update(weight=torch.zeros(2, 4)),
        lambda state: state["model"].update(weight="a"),
        lambda state: state["model"]["weight"].fill_(torch.inf),
        lambda state: state["optimizer"].pop("state"),
        lambda state: state["optimizer"]["names"].pop(),
        lambda state: state["optimizer"]["names"].reverse(),
        lambda state: state["optimizer"]["names"].insert(0, "other"),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(5)),
        lambda state: state["optimizer"]["state"][0].update(step=3),
        lambda state: state["optimizer"]["state"][0].pop("exp_avg"),
    ],
)
def test_another_content_falls_back_to_the_one_before(tmp_path, edit):
    model, optimizer, checkpointer = make(tmp_path)
    checkpointer.save(5)
    good = model.weight.clone()
    checkpointer.save(10)
    change(tmp_path / "checkpoint_0000010.pth", edit)
    assert checkpointer.resume() == 5
    assert torch.equal(model.weight, good)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def test_a_folder_in_place_of_a_file_is_not_a_checkpoint(tmp_path):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    (tmp_path / "checkpoint_0000010.pth").mkdir()
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\x00checkpoint")
    assert checkpointer.resume() == 5
    checkpointer.save(15)
    assert (tmp_path / "checkpoint_0000010.pth").is_dir()


def test_moments_are_kept_by_name_and_settings_are_the_optimizers(tmp_path):
    model, _, checkpointer = make(tmp_path)
    checkpointer.save(5)
    groups = [{"params": [model.bias], "weight_decay": 0.3}, {"params": [model.weight]}]  # in another order
    optimizer = torch.optim.AdamW(groups, lr=0.7)
    assert Checkpointer(tmp_path, optimizer=OptimizerState(optimizer, model)).resume() == 5
    assert [group["lr"] for group in optimizer.param_groups] == [0.7, 0.7]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.01]
    for parameter in (model.weight, model.bias):  # of the gradient 1
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.full_like(parameter, 0.1))


def test_an_optimizer_that_treats_matrices_and_vectors_apart_goes_on_to_the_bit(tmp_path):
    """Muon has another state for each, and flags beside tensors; a config hands it lists of its own kind."""
    torch.manual_seed(0)
    model, data = nn.Linear(8, 8), torch.randn(6, 4, 8)

    def muon(model):
        return Muon(model.parameters(), lr=0.1, betas=OmegaConf.create([0.9, 0.99]))

    def train(model, optimizer, batches):
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()

    optimizer = muon(model)
    train(model, optimizer, data[:3])
    Checkpointer(tmp_path, model=model, optimizer=OptimizerState(optimizer, model)).save(3)
    train(model, optimizer, data[3:])
    other = nn.Linear(8, 8)
    resumed = muon(other)
    assert Checkpointer(tmp_path, model=other, optimizer=OptimizerState(resumed, other)).resume() == 3
    train(other, resumed, data[3:])
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)


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
    with pytest.raises(InputError, match=r"tower\.safetensors: train\.init_checkpoint takes .* name a tower as clip\."):
        load_model(other, tmp_path / "tower.safetensors")


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


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model, _, checkpointer = make(tmp_path)
    checkpointer.save(5)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteWeightsError, match=r"after 10 iterations .*weight"):
        checkpointer.save(10)
    assert not (tmp_path / "checkpoint_0000010.pth").exists()


def test_a_file_of_something_else_falls_back_to_the_one_before(tmp_path):
    checkpointer = make(tmp_path)[2]
    checkpointer.save(5)
    torch.save([torch.ones(2)], tmp_path / "checkpoint_0000010.pth")
    assert checkpointer.resume() == 5
