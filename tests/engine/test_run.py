import errno
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clipself_d2.engine import run as run_module
from clipself_d2.engine.hooks import trim_metrics
from clipself_d2.engine.main import main
from tests.engine.toy import CONFIG, ToyEvaluator


@pytest.fixture(autouse=True)
def _quiet():
    yield
    for name in ("clipself_d2", "detectron2", "fvcore"):  # set_up_logger keeps its handlers otherwise
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(CONFIG)
    return str(file)


def train(config, output, *more) -> int:
    return main(["--config-file", config, f"train.output_dir={output}", *more])


def final(output, iteration=12):
    return torch.load(output / f"checkpoint_{iteration:07d}.pth", weights_only=True)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def metrics(output) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_a_run_writes_everything(config, tmp_path):
    out = tmp_path / "out"
    assert train(config, out) == 0
    names = {path.name.split(".")[0] if "events" in path.name else path.name for path in out.glob("[!.]*")}
    assert names == {
        "config.yaml", "log.txt", "metrics.json", "results.json", "tower.safetensors", "events", "last_checkpoint",
        "checkpoint_0000008.pth", "checkpoint_0000012.pth",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    lines = metrics(out)
    assert [line["iteration"] for line in lines] == [1, 3, 5, 7, 9, 11, 12]
    assert {"total_loss", "lr", "grad_norm", "images_per_second", "memory_gib", "time"} <= set(lines[2])
    assert lines[-1]["fit/error"] == results["fit"]["error"]
    exported = torch.load(io.BytesIO((out / "tower.safetensors").read_bytes()))
    assert exported["card"]["metrics"] == results
    assert (exported["card"]["steps"], exported["card"]["config"]) == (12, "toy.py")
    assert same(exported["weights"], final(out)["model"])
    log = (out / "log.txt").read_text()
    assert "iter: 11" in log and "eta" in log and "lr:" in log and "data_time" in log


def test_the_config_is_read_once(config, tmp_path):
    """A config may register data sets, which must happen once per process."""
    reads = tmp_path / "reads.txt"
    with Path(config).open("a") as file:
        file.write(f"\nwith open({str(reads)!r}, 'a') as _file:\n    _file.write('read ')\n")
    assert train(config, tmp_path / "out", "train.max_iter=1") == 0
    assert reads.read_text() == "read "


def test_the_learning_rate_follows_the_schedule(config, tmp_path):
    assert train(config, tmp_path / "out", "train.log_period=1") == 0
    rates = [line["lr"] for line in metrics(tmp_path / "out") if "lr" in line]
    assert rates[:4] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.05])
    assert rates == rates[:3] + sorted(rates[3:], reverse=True)


def test_resumed_equals_uninterrupted_to_the_bit(config, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(config, whole) == 0

    class Interrupt(run_module.Trainer):
        def run_step(self) -> None:
            if self.iter == 7:
                raise KeyboardInterrupt
            super().run_step()

    monkeypatch.setattr(run_module, "Trainer", Interrupt)
    assert train(config, cut) == 130
    monkeypatch.undo()
    assert not (cut / "results.json").exists()
    torch.randn(99)
    assert train(config, cut, "--resume") == 0
    assert same(final(cut), final(whole))
    assert [line["iteration"] for line in metrics(cut)] == [line["iteration"] for line in metrics(whole)]
    for a, b in zip(metrics(cut)[-2:], metrics(whole)[-2:], strict=True):
        assert a.get("lr") == b.get("lr") and a.get("fit/error") == b.get("fit/error")


def test_overrides_of_a_resumed_run_take_effect_and_are_told(config, tmp_path):
    out = tmp_path / "out"
    assert train(config, out) == 0
    more = ["train.max_iter=14", "optimizer.lr=0.5", "dataloader.train.batch_size=2", "train.log_period=1"]
    assert train(config, out, "--resume", *more) == 0
    log = (out / "log.txt").read_text()
    assert "is ignored" not in log
    [told] = [line for line in log.splitlines() if "Other settings than those" in line]
    for change in (
        "dataloader.train.batch_size 4 -> 2", "optimizer.lr 0.05 -> 0.5", "train.log_period 2 -> 1",
        "train.max_iter 12 -> 14",
    ):  # fmt: skip
        assert change in told
    assert told.count("->") == 4
    # Step 12 of 14, after 3 of warm-up.
    cosine = [0.25 * (1 + torch.cos(torch.tensor(torch.pi * (step - 3) / 11)).item()) for step in (12, 13)]
    assert [line["lr"] for line in metrics(out) if "lr" in line][-2:] == pytest.approx(cosine, rel=1e-5)
    assert [line["num_images"] for line in metrics(out) if "num_images" in line][-2:] == [2, 2]
    assert yaml.safe_load((out / "config.yaml").read_text())["optimizer"]["lr"] == 0.5
    assert torch.load(io.BytesIO((out / "tower.safetensors").read_bytes()))["card"]["steps"] == 14


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iter=8", "train.max_iter=8: "),
        ("train.init_checkpoint=OUT/checkpoint_0000008.pth", "train.init_checkpoint=OUT/checkpoint_0000008.pth would"),
        ("optimizer._target_=torch.optim.Adam", "optimizer._target_=torch.optim.Adam would have no effect"),
        ("model._target_=tests.engine.toy.ToyEvaluator", "model"),
    ],
)
def test_overrides_that_cannot_take_effect_are_refused(config, tmp_path, capsys, override, message):
    out = tmp_path / "out"
    assert train(config, out) == 0
    before = (out / "config.yaml").read_text(), final(out)
    capsys.readouterr()
    assert train(config, out, "--resume", override.replace("OUT", str(out))) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message.replace("OUT", str(out)) in line
    assert (out / "config.yaml").read_text() == before[0] and same(final(out), before[1])


def test_resuming_a_finished_run_evaluates_and_exports_again(config, tmp_path):
    out = tmp_path / "out"
    assert train(config, out) == 0
    before = metrics(out)
    (out / "tower.safetensors").unlink()
    assert train(config, out, "--resume") == 0
    assert (out / "tower.safetensors").exists()
    assert [line["iteration"] for line in metrics(out)] == [line["iteration"] for line in before]


def test_resume_without_a_checkpoint_starts(config, tmp_path):
    assert train(config, tmp_path / "out", "--resume", "train.max_iter=2") == 0


def test_an_earlier_run_is_not_overwritten(config, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config, out) == 0
    saved = final(out)
    capsys.readouterr()
    assert train(config, out) == 2
    assert "holds checkpoints of an earlier run" in capsys.readouterr().err
    assert same(final(out), saved)


def test_eval_only_of_the_config_of_a_checkpoint_and_of_a_run(config, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config, out) == 0
    trained = json.loads((out / "results.json").read_text())

    def error(name, *more):
        assert train(config, tmp_path / name, "--eval-only", *more) == 0
        return json.loads((tmp_path / name / "results.json").read_text())

    assert error("raw")["fit"]["error"] > trained["fit"]["error"]
    assert error("init", f"train.init_checkpoint={out}/checkpoint_0000012.pth") == trained
    assert error("out", "--resume") == trained
    assert train(config, tmp_path / "none", "--eval-only", "--resume") == 2
    assert "holds no checkpoint to evaluate" in capsys.readouterr().err


def test_evaluation_while_training(config, tmp_path):
    assert train(config, tmp_path / "out", "train.eval_period=5") == 0
    assert [line["iteration"] for line in metrics(tmp_path / "out") if "fit/error" in line] == [4, 9, 12]
    # The weights do not feel it.
    assert train(config, tmp_path / "other") == 0
    assert same(final(tmp_path / "out")["model"], final(tmp_path / "other")["model"])


def test_a_config_without_evaluation_and_export(config, tmp_path, capsys):
    without = ["dataloader.test=null", "dataloader.evaluator=null", "export=null"]
    assert train(config, tmp_path / "out", *without) == 0
    assert not (tmp_path / "out" / "results.json").exists()
    assert not (tmp_path / "out" / "tower.safetensors").exists()
    capsys.readouterr()
    assert train(config, tmp_path / "other", "--eval-only", *without) == 2
    assert "nothing to evaluate with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config-file"),
        (["--config-file", "missing.py"], "no such config file"),
        (["--config-file", "CONFIG", "--num-gpu-s", "2"], "unrecognized arguments"),
        (["--config-file", "CONFIG", "--num-gpus", "0"], "at least 1"),
        (["--config-file", "CONFIG", "--num-machines", "2"], "--dist-url"),
        (["--config-file", "CONFIG", "train.max_itr=2"], "did you mean"),
        (["--config-file", "CONFIG", "train.init_checkpoint=missing.pth"], "missing.pth"),
        (["--config-file", "CONFIG", "train.output_dir=/dev/null/x"], "cannot be made or written to"),
        (["--config-file", "CONFIG", "optimizer.lr=-1"], "optimizer: Invalid learning rate"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(config, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main([config if word == "CONFIG" else word for word in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ") and message in lines[0]


def test_not_a_number_is_one_line_and_exit_code_1(config, tmp_path, capsys):
    assert train(config, tmp_path / "out", "optimizer.lr=1e30", "optimizer.params.weight_decay=1e30") == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: iteration ") and "image ids" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_full_disk_at_the_export_is_one_line_and_the_run_can_go_on(config, tmp_path, capsys):
    full = tmp_path / "full.py"
    full.write_text(CONFIG.replace("export_toy", "export_to_full_disk"))
    out = tmp_path / "out"
    assert train(str(full), out) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "No space left on device" in line and "tower.safetensors" in line
    assert train(config, out, "--resume") == 0
    assert same(torch.load(io.BytesIO((out / "tower.safetensors").read_bytes()))["weights"], final(out)["model"])


def test_unreadable_images_are_in_the_curve(config, tmp_path):
    assert train(config, tmp_path / "out") == 0
    assert [line["unreadable_images"] for line in metrics(tmp_path / "out")[:-1]] == [0.0] * 6


def test_weights_that_are_not_finite_are_neither_saved_nor_restored(config, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config, out) == 0
    state = final(out)
    state["model"]["linear.bias"][0] = torch.nan
    torch.save(state, out / "checkpoint_0000012.pth")
    assert train(config, out, "--resume", "train.max_iter=8") == 0  # from the one before
    assert "1 of 2 weights are not finite: linear.bias" in (out / "log.txt").read_text()
    capsys.readouterr()
    checkpoint = f"train.init_checkpoint={out}/checkpoint_0000012.pth"
    torch.save(state, out / "checkpoint_0000012.pth")
    assert train(config, tmp_path / "other", "--eval-only", checkpoint) == 2
    assert "1 of 2 weights are not finite: linear.bias" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [[], ["--eval-only"]])
def test_towers_are_compiled_in_training_and_in_evaluation(config, tmp_path, capsys, mode):
    assert train(config, tmp_path / "out", *mode, "train.compile=true") == 2
    assert "train.compile: this model has no image tower to compile" in capsys.readouterr().err


def no_device_memory(*_) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of ...")


def no_memory_to_fork(*_) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    "step", [no_device_memory, no_memory_to_fork, lambda _: torch.empty(2**50), lambda _: np.empty(2**50)]
)
def test_a_lack_of_memory_is_one_line(config, tmp_path, capsys, monkeypatch, step):
    """Pretended, and refused by the allocators of PyTorch and NumPy."""
    monkeypatch.setattr(run_module.Trainer, "run_step", step)
    assert train(config, tmp_path / "out") == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: out of memory (") and "train.accumulate" in line
    monkeypatch.setattr(ToyEvaluator, "process", lambda self, *_: step(self))
    assert train(config, tmp_path / "other", "--eval-only") == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: out of memory (") and "dataloader.test.batch_size" in line


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out and "--resume" in out and "torchrun" in out


def test_metrics_are_trimmed_to_what_a_resumed_run_keeps(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 1}\n{"iteration": 3}\n{"iteration": 5}\n{"iterat')
    trim_metrics(file, 5)
    assert file.read_text() == '{"iteration": 1}\n{"iteration": 3}\n'
    trim_metrics(tmp_path / "missing.json", 3)
