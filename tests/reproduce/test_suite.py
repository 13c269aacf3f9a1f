"""Several tables in one go."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from clipself_d2.errors import InputError, RunError
from clipself_d2.reproduce.plan import Planner
from clipself_d2.reproduce.suite import reproduce_all
from clipself_d2.reproduce.table import Row, Run
from tests.reproduce.fake import FakeRunner, write_config


@pytest.fixture
def tables(table, tmp_path):
    """Untouched, small and large; small alone; large, and its tower elsewhere."""
    untouched, small, large, elsewhere = table.rows
    groups = {"P": (untouched, small, large), "Q": (small,), "R": (large, elsewhere)}
    return [replace(table, name=name, rows=rows, title=f"That of {name}") for name, rows in groups.items()]


def run(tables, output, runner, redo=False):
    text = io.StringIO()
    suite = reproduce_all(tables, Planner(output), runner, Console(file=text, width=250), redo)
    return suite, text.getvalue()


def test_shared_runs_are_run_once(tables, tmp_path):
    runner = FakeRunner()
    suite, progress = run(tables, tmp_path, runner)
    assert len(runner.jobs) == len({job.digest for job in runner.jobs}) == 4
    assert list(suite.outcomes) == ["P", "Q", "R"] and not suite.errors
    for name, outcome in suite.outcomes.items():
        assert json.loads((tmp_path / f"{name}-miniature/results.json").read_text()) == outcome
    assert "run 4 of 4 took" in progress
    assert suite.page == tmp_path / "all-miniature/report.html"
    page = suite.page.read_text()
    assert all(f"That of {name}" in page for name in "PQR")


def test_what_is_done_is_not_done_again(tables, tmp_path):
    first, _ = run(tables[1:2], tmp_path, FakeRunner())
    rest = FakeRunner()
    suite, progress = run(tables, tmp_path, rest)
    assert len(rest.jobs) == 3
    assert "1 of 4 runs were done before" in progress
    assert suite.outcomes["Q"] == first.outcomes["Q"]
    none = FakeRunner()
    again, _ = run(tables, tmp_path, none)
    assert none.jobs == []
    assert again == suite
    everything = FakeRunner()
    run(tables, tmp_path, everything, redo=True)
    assert len(everything.jobs) == 4


def test_the_next_call_goes_on_after_an_interruption(tables, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tables, tmp_path, FakeRunner(fail_at=1))
    rest = FakeRunner()
    suite, _ = run(tables, tmp_path, rest)
    assert [job.config.model.alpha for job in rest.jobs] == [1, 1]
    assert len(suite.outcomes) == 3


@pytest.mark.parametrize("error", [InputError, RunError, OSError])
def test_the_others_are_made_when_one_fails(tables, tmp_path, error):
    """The large one breaks, once; the tables with it fail, the other is there."""
    runner = FakeRunner(fail_at=1, error=error)
    suite, progress = run(tables, tmp_path, runner)
    assert list(suite.outcomes) == ["Q"]
    assert suite.errors == {"P": "it broke", "R": "it broke"}
    assert len(runner.jobs) == 2
    assert progress.count("failed: it broke") == 2
    page = suite.page.read_text()
    assert page.count("Failed: it broke") == 2
    assert not (tmp_path / "P-miniature").exists()
    mended = FakeRunner()
    suite, _ = run(tables, tmp_path, mended)
    assert len(mended.jobs) == 2 and not suite.errors


def test_the_others_are_made_when_one_cannot_be_planned(tables, tmp_path):
    unknown = Row("odd", Run(write_config(tmp_path), ("model.alhpa=1",)), ("boxes.top1", ""))
    tables[0] = replace(tables[0], rows=(unknown,))
    suite, _ = run(tables, tmp_path, FakeRunner())
    assert list(suite.outcomes) == ["Q", "R"]
    assert "model.alhpa: unknown config key" in suite.errors["P"]


def test_the_others_are_made_when_one_lacks_its_data(tables, tmp_path):
    lacking = Row("odd", Run(write_config(tmp_path), ("dataloader.train.dataset=nowhere",)), ("boxes.top1", ""))
    tables[0] = replace(tables[0], rows=(tables[0].rows[0], lacking))
    runner = FakeRunner()
    suite, _ = run(tables, tmp_path, runner)
    assert list(suite.outcomes) == ["Q", "R"]
    assert suite.errors["P"].startswith("data set nowhere: not registered")
    assert all(job.config.dataloader.train.dataset == "fake_images" for job in runner.jobs)


def test_seconds_are_of_every_run_once(tables, tmp_path):
    run(tables, tmp_path, FakeRunner())
    for finished in tmp_path.glob("runs/*/finished.json"):
        finished.write_text(json.dumps({**json.loads(finished.read_text()), "seconds": 1000.5}))
    suite, _ = run(tables, tmp_path, FakeRunner())
    assert suite.seconds == 4 * 1000.5
    assert "1:06:42" in suite.page.read_text()
