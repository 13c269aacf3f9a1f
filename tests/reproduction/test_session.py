import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clipself_d2.errors import InputError, RunError
from reproduction.outcome import gather
from reproduction.plan import Job, Planner
from reproduction.session import Session, duration, run_tool, time_left
from reproduction.tables import PAIRS_FILE, Row, Run, Table
from tests.reproduction.fake import FakeRunner, write_config


@pytest.fixture
def planner(tmp_path):
    return Planner(tmp_path / "out")


def run(table, planner, runner):
    jobs = planner.jobs(table)
    Session(jobs, runner).finish(jobs)
    return gather(table, planner)


def test_the_outcome(table, planner, capsys):
    outcome = run(table, planner, FakeRunner())
    progress = capsys.readouterr().err
    assert (outcome["table"], outcome["scale"], outcome["note"]) == ("X", "miniature", "A note.")
    assert outcome["title"] == "Table X (miniature): A made-up table"
    ours = {row["label"]: row["ours"] for row in outcome["rows"]}
    assert ours == {
        "untouched": {"boxes top-1": 0.5, "crops top-1": 60.0},
        "small": {"boxes top-1": 25.0, "crops top-1": 60.0},
        "large": {"boxes top-1": 100.0, "crops top-1": 60.0},
        "large, 32 pixels": {"boxes top-1": 0.5, "crops top-1": None},
    }
    paper = [(row["paper_label"], row["paper"]["boxes top-1"]) for row in outcome["rows"]]
    assert paper == [("", 1.0), ("tiny", 20.0), ("huge", 30.0), ("", None)]
    assert outcome["same_order"] == {"boxes top-1": True}
    assert all("tools/train_net.py" in row["command"] and row["seconds"] >= 0 for row in outcome["rows"])
    assert "run 4 of 4 took" in progress and "left" in progress


def test_an_order_unlike_the_paper_s_is_said(table, planner):
    class Upside(FakeRunner):
        def __call__(self, job):
            super().__call__(job)
            path = job.folder / "results.json"
            results = json.loads(path.read_text())
            results["boxes"]["top1"] *= -1
            path.write_text(json.dumps(results))

    outcome = run(table, planner, Upside())
    assert outcome["same_order"] == {"boxes top-1": False}


def test_a_finished_run_is_not_run_again(table, planner, tmp_path, capsys):
    first = FakeRunner()
    before = run(table, planner, first)
    assert len(first.jobs) == 4
    again = FakeRunner()
    after = run(table, Planner(tmp_path / "out"), again)
    assert again.jobs == []
    assert after == before
    assert "4 of 4 runs were done before" in capsys.readouterr().err


def test_after_an_interruption_only_the_rest_is_run(table, planner):
    with pytest.raises(KeyboardInterrupt):
        run(table, planner, FakeRunner(fail_at=1))
    partial = planner.jobs(table)[2].folder
    assert partial.is_dir()  # a real run's checkpoints would be here
    (partial / "checkpoint_0000001.pth").touch()
    again = FakeRunner()
    run(table, planner, again)
    assert [job.folder for job in again.jobs] == [job.folder for job in planner.jobs(table)[2:]]
    assert (partial / "checkpoint_0000001.pth").exists()


def test_a_training_whose_tower_is_gone_is_run_again(table, planner):
    run(table, planner, FakeRunner())
    (planner.jobs(table)[1].folder / "tower.safetensors").unlink()
    again = FakeRunner()
    run(table, planner, again)
    assert [job.folder for job in again.jobs] == [planner.jobs(table)[1].folder]


def test_nothing_is_run_when_something_is_missing(table, images, planner):
    images.rmdir()
    runner = FakeRunner()
    with pytest.raises(InputError, match="data set fake_images"):
        run(table, planner, runner)
    assert runner.jobs == []
    images.mkdir()


def test_a_run_without_results(table, planner):
    with pytest.raises(RunError, match=r"results.json: was not written; see .*console.txt"):
        run(table, planner, lambda job: None)


@pytest.fixture
def chain(tmp_path, images):
    """A detector; a tower that is distilled on its proposals; the detector on that tower; that one elsewhere."""
    detector = write_config(tmp_path, name="detector", exports=False)
    first = Run(detector)
    proposals = first.taken_by("make_proposals", "--weights", "fake_images")
    tower = Run(write_config(tmp_path)).using(PAIRS_FILE, proposals)
    second = first.on(tower)
    third = second.evaluated("model.alpha=0.1")
    runs = {"original": first, "proposals": second, "elsewhere": third}
    rows = tuple(Row(name, run, key=name[:4]) for name, run in runs.items())
    return Table("Y", "miniature", "A made-up chain", "tower", {"novel": "bbox.AP50_novel"}, rows)


def test_a_chain_of_runs(chain, planner, tmp_path):
    runner = FakeRunner()
    outcome = run(chain, planner, runner)
    names = [job.folder.name.rpartition("-")[0] for job in runner.jobs]
    assert names == ["detector", "detector-proposals", "fake", "detector", "detector"]
    assert [row["ours"]["novel"] for row in outcome["rows"]] == [10.0, 40.0, 40.0]
    assert (outcome["orig"], outcome["prop"], outcome["else"]) == ({"novel": 10.0}, {"novel": 40.0}, {"novel": 40.0})
    again = FakeRunner()
    assert run(chain, Planner(tmp_path / "out"), again) == outcome
    assert again.jobs == []


def test_what_is_lost_of_a_chain_is_made_again(chain, planner):
    run(chain, planner, FakeRunner())
    jobs = planner.jobs(chain)
    for lost, made in ((1, "proposals.json"), (3, "checkpoint_0000010.pth")):
        assert jobs[lost].product.name == made
        jobs[lost].product.unlink()
        again = FakeRunner()
        run(chain, planner, again)
        assert [job.folder for job in again.jobs] == [jobs[lost].folder]


def test_unfinished_proposals_are_begun_anew(chain, planner):
    job = planner.jobs(chain)[1]
    job.folder.mkdir(parents=True)
    job.product.touch()  # as the tool refuses to overwrite them
    existed = []
    run(chain, planner, lambda job: (existed.append(job.product.exists()) if job.run.dataset else None,
                                     FakeRunner()(job)))  # fmt: skip
    assert existed == [False]


TOOL = """
import sys
print("[12:00] iter 5/10  eta 0:00:01")
print("\\x1b[32m[12:00] iter 10/10\\x1b[0m", file=sys.stderr)
print({last!r}, file=sys.stderr)
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("code", "last", "error", "message"),
    [
        (0, "", None, ""),
        (2, "error: clip.pretrained: no such tag", InputError, "^clip.pretrained: no such tag$"),
        (1, "error: iteration 3: loss is nan", RunError, "^iteration 3: loss is nan$"),
        (1, "KeyError: 3", RunError, "ended with exit code 1; see .*console.txt"),
        (2, "", InputError, "was refused; see .*console.txt"),
    ],
)
def test_the_tool_s_process(table, planner, tmp_path, monkeypatch, code, last, error, message):
    tool = tmp_path / "tool.py"
    tool.write_text(TOOL.format(code=code, last=last))
    job = planner.jobs(table)[0]
    monkeypatch.setattr(Job, "tool", tool)
    job.folder.mkdir(parents=True)
    (job.folder / "console.txt").write_text("error: of an earlier start\n")
    if error:
        with pytest.raises(error, match=message):
            run_tool(job)
    else:
        run_tool(job)
    assert "iter 5/10" in (job.folder / "console.txt").read_text()


def test_the_tool_gets_the_arguments_that_are_shown(table, planner, tmp_path, monkeypatch):
    tool = tmp_path / "tool.py"
    tool.write_text("import sys\nprint(sys.executable, sys.argv[1:])")
    job = planner.jobs(table)[3]
    monkeypatch.setattr(Job, "tool", tool)
    job.folder.mkdir(parents=True)
    run_tool(job)
    assert (job.folder / "console.txt").read_text() == f"{sys.executable} {list(job.arguments)}\n"


def test_a_training_without_an_evaluator_need_not_leave_results(table, planner, tmp_path):
    """A mask generator: what counts is the checkpoint that others take from it."""
    path = tmp_path / "generator.py"
    path.write_text(Path(write_config(tmp_path)).read_text() + "\ndel dataloader['evaluator'], dataloader['test']\n")
    generator = replace(table.rows[1], run=Run(str(path)), metrics=("", ""))

    class NoResults(FakeRunner):
        def __call__(self, job):
            super().__call__(job)
            (job.folder / "results.json").unlink()

    outcome = run(replace(table, rows=(generator,)), planner, NoResults())
    assert outcome["rows"][0]["ours"] == {"boxes top-1": None, "crops top-1": None}

    class NoProduct(NoResults):
        def __call__(self, job):
            super().__call__(job)
            job.product.unlink()

    with pytest.raises(RunError, match="was not written"):
        run(replace(table, rows=(generator,)), Planner(tmp_path / "elsewhere"), NoProduct())


def test_a_run_is_expected_to_take_as_long_as_its_like(tmp_path, images):
    first, other = write_config(tmp_path), write_config(tmp_path, name="other")
    runs = Run(first), Run(first, ("train.max_iter=30",)), Run(first).before(), Run(other)
    short, long, evaluation, _ = jobs = [Planner(tmp_path).job(run) for run in runs]
    assert time_left(jobs) == 0  # nothing is known

    def finish(job, seconds):
        FakeRunner()(job)
        (job.folder / "finished.json").write_text(json.dumps({"digest": job.digest, "seconds": seconds}))

    for job in jobs:
        job.folder.mkdir(parents=True)
    finish(short, 20)
    assert time_left(jobs) == 3 * 20
    finish(evaluation, 10)
    assert time_left(jobs) == 20 + 15  # a training of the same config; the mean of all
    finish(long, 30)
    assert time_left(jobs) == 20


def test_duration():
    assert [duration(seconds) for seconds in (0.4, 75, 3661.6)] == ["0:00:00", "0:01:15", "1:01:02"]


def test_the_tool_s_process_ends_with_an_interruption(table, planner, tmp_path, monkeypatch):
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    job = planner.jobs(table)[0]
    monkeypatch.setattr(Job, "tool", tool)
    job.folder.mkdir(parents=True)

    def interrupt():
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        run_tool(job)
    waiting.join()
    signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
