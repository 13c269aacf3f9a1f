"""Runs the jobs of a table, those that have not been run before, and gathers its numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError, RunError
from clipself_d2.reproduce.plan import Job, Planner, missing
from clipself_d2.reproduce.table import Row, Table

Outcome = dict[str, Any]
Advance = Callable[[float], None]
Runner = Callable[[Job, Advance], None]

FINISHED = "finished.json"
CONSOLE = "console.txt"


def reproduce(table: Table, planner: Planner, run: Runner, console: Console, redo: bool = False) -> Outcome:
    """Run what has not been run and gather the table's numbers.

    Args:
        table: the entry.
        planner: plans its runs.
        run: runs a job, which leaves `results.json` (or its proposals) in its folder, and reports the share (0..1) that
            is done.
        console: where progress goes.
        redo: run also what has been run before.

    Returns:
        What `gather` gives; also written to `TABLE-SCALE/results.json` of the planner's output.

    Raises:
        InputError: when something that is needed is not there; nothing has been run then.
        RunError: when a run fails; those before it are kept.
    """
    jobs = planner.jobs(table)
    pending = [job for job in jobs if redo or not is_finished(job)]
    check(pending)
    if done := len(jobs) - len(pending):
        console.print(f"{done} of {len(jobs)} runs were done before; --redo runs them again")
    _run_all(pending, run, console, redo)
    outcome = gather(table, planner)
    folder = table_folder(table, planner)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", outcome)
    return outcome


def check(jobs: Sequence[Job]) -> None:
    """Raise an InputError, one line, when something that the jobs need is not there."""
    if gaps := missing(jobs):
        more = f" (and {len(gaps) - 1} more: see --dry-run)" if len(gaps) > 1 else ""
        raise InputError(f"{gaps[0]}{more}")


def is_finished(job: Job) -> bool:
    """Whether the very run has been finished, and what others take from it is still there."""
    marker = job.folder / FINISHED
    if not marker.is_file() or (job.product and not job.product.is_file()):
        return False
    return json.loads(marker.read_text())["digest"] == job.digest


def gather(table: Table, planner: Planner) -> Outcome:
    """The numbers of a table whose runs are finished.

    Returns:
        `{"table", "scale", "title", "varies", "columns", "note", "rows", "same_order"}`. A row is `{"label",
        "paper_label", "ours": {column: percent | None}, "paper": {..}, "seconds", "folder", "command"}`; `same_order`
        says, for each column with two of the paper's numbers or more, whether our rows are ordered as the paper's. The
        numbers of a row with a key are given under that, too.
    """
    rows = [_row(table, row, planner.job(row.run)) for row in table.rows]
    orders = {column: _same_order(rows, column) for column in table.columns}
    keyed = {row.key: ours["ours"] for row, ours in zip(table.rows, rows, strict=True) if row.key}
    return {
        **keyed,
        "table": table.name,
        "scale": table.scale,
        "title": table.heading,
        "varies": table.varies,
        "columns": list(table.columns),
        "note": table.note,
        "rows": rows,
        "same_order": {column: same for column, same in orders.items() if same is not None},
    }


def table_folder(table: Table, planner: Planner) -> Path:
    """Where the table's numbers and pictures are written."""
    return planner.output / f"{table.name}-{table.scale}"


def write_json(path: Path, content: Outcome) -> None:
    """Write a whole file or none."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def run_tool(job: Job, advance: Advance) -> None:
    """Run a job in a process of its own; all that it prints goes to `console.txt` in its folder.

    Raises:
        InputError, RunError: as the process does, with its line.
    """
    log = job.folder / CONSOLE
    last_error = ""
    command = [sys.executable, str(job.tool), *job.arguments]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with log.open("a") as file, subprocess.Popen(command, **pipe) as process:
        assert process.stdout
        for line in process.stdout:
            file.write(line)
            file.flush()
            if step := re.search(r"\biter (\d+)/(\d+)", line):
                advance(int(step[1]) / int(step[2]))
            if line.startswith("error: "):
                last_error = line.removeprefix("error: ").strip()
    if process.returncode == 2:
        raise InputError(last_error or f"{job.folder.name} was refused; see {log}")
    if process.returncode:
        raise RunError(last_error or f"{job.folder.name} ended with exit code {process.returncode}; see {log}")


def _run_all(jobs: Sequence[Job], run: Runner, console: Console, redo: bool) -> None:
    total, done, start = sum(job.cost for job in jobs), 0.0, time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}")
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total, left="")

        def left(completed: float) -> str:
            seconds = (time.monotonic() - start) * (total - completed) / completed if completed else 0
            return f"about {timedelta(seconds=round(seconds))} left" if completed else ""

        for number, job in enumerate(jobs, 1):

            def advance(share: float, done: float = done, cost: float = job.cost) -> None:
                now = done + share * cost
                progress.update(bar, completed=now, left=left(now))

            progress.update(bar, description=f"run {number} of {len(jobs)}")
            console.print(f"run {number} of {len(jobs)}: {job.command}", highlight=False, soft_wrap=True)
            seconds = _run_one(job, run, advance, redo)
            done += job.cost
            progress.update(bar, completed=done, left=left(done))
            rest = f", {left(done)}" if number < len(jobs) else ""
            console.print(f"run {number} of {len(jobs)} took {timedelta(seconds=round(seconds))}{rest}")


def _run_one(job: Job, run: Runner, advance: Advance, redo: bool) -> float:
    """Run a job and mark it as finished; returns seconds."""
    if redo or job.run.proposes:  # which cannot be resumed
        shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    run(job, advance)
    seconds = time.monotonic() - start
    results_file = job.folder / "results.json"
    for written in filter(None, (job.product, results_file if job.judged else None)):
        if not written.is_file():
            raise RunError(f"{written}: was not written; see {job.folder / CONSOLE}")
    results = json.loads(results_file.read_text()) if job.judged else {}
    finished = {"digest": job.digest, "command": job.command, "seconds": round(seconds, 1)}
    write_json(job.folder / FINISHED, {**finished, "results": results})
    return seconds


def _row(table: Table, row: Row, job: Job) -> Outcome:
    finished = json.loads((job.folder / FINISHED).read_text())
    ours = []
    for metric in row.metrics:
        task, _, name = metric.partition(".")
        ours.append(finished["results"].get(task, {}).get(name))
    paper = row.paper or (None,) * len(table.columns)
    return {
        "label": row.label,
        "paper_label": row.paper_label,
        "ours": dict(zip(table.columns, ours, strict=True)),
        "paper": dict(zip(table.columns, paper, strict=True)),
        "seconds": finished["seconds"],
        "folder": str(job.folder),
        "command": finished["command"],
    }


def _same_order(rows: Sequence[Outcome], column: str) -> bool | None:
    pairs = [(row["paper"][column], row["ours"][column]) for row in rows]
    known = [pair for pair in pairs if None not in pair]
    if len(known) < 2:
        return None
    return all((a[0] < b[0]) == (a[1] < b[1]) for a in known for b in known if a[0] != b[0])
