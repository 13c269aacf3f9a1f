"""What a run tells Weights & Biases, in whose place a list stands."""

import json
import sys
from types import SimpleNamespace

import pytest

from clipself_d2.engine import wandb_writer
from clipself_d2.engine.main import main
from tests.engine.toy import CONFIG


class Run:
    """A run of Weights & Biases."""

    def __init__(self, **settings):
        self.settings, self.rows, self.finished = settings, {}, False

    def log(self, scalars, step):
        self.rows[step] = scalars

    def finish(self):
        self.finished = True


def test_metrics_are_those_of_metrics_json(tmp_path, monkeypatch):
    runs = []
    wandb = SimpleNamespace(init=lambda **settings: runs.append(Run(**settings)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(wandb_writer, "require", lambda *_: None)
    (tmp_path / "toy.py").write_text(CONFIG)
    output = tmp_path / "first"
    assert main(["--config-file", str(tmp_path / "toy.py"), f"train.output_dir={output}", "train.wandb=toys"]) == 0
    [run] = runs
    assert run.finished
    assert (run.settings["project"], run.settings["name"], run.settings["dir"]) == ("toys", "first", str(output))
    assert run.settings["config"]["train.max_iter"] == "12"
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["loss_fit"] for line in lines if "loss_fit" in line}
    assert {step: row["loss_fit"] for step, row in run.rows.items() if "loss_fit" in row} == pytest.approx(losses)


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clipself_d2.errors.find_spec", lambda _: None)
    (tmp_path / "toy.py").write_text(CONFIG)
    assert main(["--config-file", str(tmp_path / "toy.py"), f"train.output_dir={tmp_path}/a", "train.wandb=toys"]) == 2
    assert "train.wandb needs the package wandb: pip install 'clipself_d2[wandb]'" in capsys.readouterr().err
