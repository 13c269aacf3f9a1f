"""The command line: what is printed where, and the exit codes."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipself_d2.errors import RunError
from reproduction import command
from reproduction.catalog import ENTRIES, find, names
from reproduction.figures import FIGURES
from tests.reproduction.fake import FakeRunner

ROOT = Path(__file__).parents[2]
SMALL = ["clip.pretrained=null", "train.max_iter=2"]


def reproduce(*args, runner=None) -> int:
    return command.main([str(arg) for arg in args], runner or FakeRunner())


def test_list(capsys):
    assert reproduce("--list") == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines()]
    tables = ["1a", "1b", "1c", "2", "3a", "5", "6", "7", "A1", "A2", "A3", "A5", "fig1", "fig3", "fig4"]
    assert listed == [*tables, "coherence", "dense-modes", "successors"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["9"], f"error: table '9' is unknown: known are {', '.join(ENTRIES)}, or all"),
        ([], f"error: name a table: {', '.join(ENTRIES)}, or all (see --help)"),
        (["4"], "error: table 4 has no miniature (there is no second data set to transfer to; "),
        (["2", "--scale", "huge"], "error: argument --scale: invalid choice: 'huge'"),
        (["2", "--fast"], "error: unrecognized arguments: --fast (see --help)"),
        (["2", "train.max_itr=2"], "error: train.max_itr: unknown config key 'max_itr'; did you mean 'max_iter'?"),
        (
            ["1c", *SMALL, "model.student_size=64"],
            "error: clip.pretrained=null train.max_iter=2 model.student_size=64",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(args, message, capsys, tmp_path):
    assert reproduce(*args, "--output", tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert len(captured.err.splitlines()) == 1


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    assert "--scale paper --dry-run" in capsys.readouterr().out


def test_a_dry_run_prints_commands_and_needs_and_runs_nothing(capsys, tmp_path):
    runner = FakeRunner()
    assert reproduce("1c", "--dry-run", "--output", tmp_path, *SMALL, runner=runner) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if "tools/train_net.py" in line]
    assert len(commands) == 4
    assert all("train.max_iter=2" in line and "--resume" in line for line in commands)
    assert "  ok       weights: OV-Shapes-ViT-8, random weights" in lines
    assert sum("data set ov_shapes" in line for line in lines) == 3
    assert runner.jobs == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_missing(capsys, tmp_path):
    assert reproduce("1c", "--dry-run", "--output", tmp_path, f"clip.pretrained={tmp_path}/no.safetensors") == 2
    captured = capsys.readouterr()
    assert f"  MISSING  weights: OV-Shapes-ViT-8, {tmp_path}/no.safetensors" in captured.out
    assert captured.err.startswith("error: weights: OV-Shapes-ViT-8") and len(captured.err.splitlines()) == 1


def test_a_table_is_printed_and_written(capsys, tmp_path):
    assert reproduce("1b", "--output", tmp_path, *SMALL) == 0
    out = capsys.readouterr().out
    assert "Trainable blocks" in out and "72.1" in out
    outcome = json.loads((tmp_path / "1b-miniature/results.json").read_text())
    assert [row["label"] for row in outcome["rows"]] == ["1", "2", "4", "6"]
    assert "original" not in outcome
    assert reproduce("1b", "--output", tmp_path, *SMALL, "--dry-run") == 0
    assert capsys.readouterr().out.count("# done before") == 4


def test_markdown_is_all_of_stdout(capsys, tmp_path):
    assert reproduce("2", "--output", tmp_path, "--markdown", *SMALL) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "**Table 2 (miniature): Region classification before and after CLIPSelf**"
    headings = [cell.strip() for cell in lines[2].split("|")]
    assert headings[1:6] == ["tower", "paper's row", "boxes top-1", "boxes top-1, paper", "boxes top-5"]
    assert len([line for line in lines if line.startswith("|")]) == 5
    assert "run 1 of 5" in captured.err


def test_a_figure_is_written_beside_its_numbers(tmp_path):
    assert reproduce("A1fig", "--output", tmp_path, *SMALL) == 0
    folder = tmp_path / "fig3-miniature"
    outcome = json.loads((folder / "results.json").read_text())
    assert outcome["figures"] == ["accuracy.png", "accuracy.svg"]
    assert all((folder / name).stat().st_size > 1000 for name in outcome["figures"])


def test_table_3a_gives_its_rows_by_name(tmp_path, no_towers):
    assert reproduce("3a", "--output", tmp_path, *SMALL) == 0
    outcome = json.loads((tmp_path / "3a-miniature/results.json").read_text())
    assert outcome["original"] == {"novel": 10.0, "base": 50.0, "all": 45.0}
    assert outcome["clipself_patches"] == outcome["clipself_proposals"] == {"novel": 40.0, "base": 50.0, "all": 45.0}
    assert [row["paper"]["novel"] for row in outcome["rows"]] == [17.5, 33.6, 37.6]


def test_interruption_and_failure(capsys, tmp_path):
    assert reproduce("1b", "--output", tmp_path, *SMALL, runner=FakeRunner(fail_at=0.95)) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    assert reproduce("1b", "--output", tmp_path, *SMALL, runner=lambda job: None) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_redo_runs_everything_afresh(tmp_path):
    """An interrupted one leaves nothing that counts as done again."""
    args = ["1b", "--output", tmp_path, *SMALL]
    assert reproduce(*args) == 0
    assert reproduce(*args, "--redo", runner=FakeRunner(fail_at=0.95)) == 130
    rest, again = FakeRunner(), FakeRunner()
    assert reproduce(*args, runner=rest) == 0
    assert len(rest.jobs) == 4
    assert reproduce(*args, "--redo", runner=again) == 0
    assert len(again.jobs) == 4


def test_device_and_ranks_reach_every_run(tmp_path):
    runner = FakeRunner()
    assert reproduce("2", "--output", tmp_path, "--device", "cpu", "--num-gpus", 2, *SMALL, runner=runner) == 0
    for job in runner.jobs:
        assert "train.device=cpu" in job.arguments
        assert ("--num-gpus" in job.arguments) is not bool(job.run.dataset)


def test_the_tool_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "7b"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools/reproduce.py"), run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: table '7b' is unknown")


@pytest.fixture
def no_towers(monkeypatch):
    """Pictures that need no tower and no model, as the made-up runs export none."""

    def draw(table, rows, planner, folder):
        Image.new("RGB", (8, 8)).save(folder / "figure.png")
        return [folder / "figure.png"]

    for name in ("kmeans", "detections", "segmentations"):
        monkeypatch.setitem(FIGURES, name, draw)


def test_all_tables_at_once(capsys, tmp_path, no_towers):
    runner = FakeRunner()
    assert reproduce("all", "--output", tmp_path, *SMALL, runner=runner) == 0
    assert len({job.digest for job in runner.jobs}) == len(runner.jobs)
    captured = capsys.readouterr()
    page = (tmp_path / "all-miniature/report.html").read_text()
    for name in names("miniature"):
        table = find(name, "miniature")
        assert table.heading in captured.out
        assert (tmp_path / f"{name}-miniature/results.json").is_file()
        assert f">{table.label}</h2>" in page
    outcomes = [json.loads((tmp_path / f"{name}-miniature/results.json").read_text()) for name in names("miniature")]
    orders = [same for outcome in outcomes for same in outcome["same_order"].values()]
    overall = f"{sum(orders)} of {len(orders)} orderings hold"
    assert captured.out.endswith(f"\n{overall}\n\n") and overall in page
    assert 0 < sum(orders) < len(orders)
    assert "all runs took 0:00:0" in captured.err
    assert page.count("data:image/png") == 6


def test_a_dry_run_lists_the_commands_of_all_tables_once(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "names", lambda scale: ["1b", "1c", "7"])
    runner = FakeRunner()
    assert reproduce("all", "--output", tmp_path, *SMALL, runner=runner) == 0
    capsys.readouterr()
    assert reproduce("all", "--output", tmp_path, *SMALL, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith("python tools/")]
    assert len(commands) == len(set(commands)) == len(runner.jobs)
    assert f"{len(commands)} runs; {len(commands)} done before, in 0:00:0" in lines[-1]


def test_all_says_at_the_end_what_failed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "names", lambda scale: ["1b", "6", "7"])
    runner = FakeRunner(fail_at=0.4, error=RunError)  # the fused scores of table 6
    assert reproduce("all", "--output", tmp_path, *SMALL, runner=runner) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: 1 of 3 tables failed: 6"
    assert "Failed: it broke" in (tmp_path / "all-miniature/report.html").read_text()
