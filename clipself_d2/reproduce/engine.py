"""Runs jobs, those that have not been run before, and keeps what they leave."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError, RunError
from clipself_d2.reproduce.needs import missing
from clipself_d2.reproduce.pace import Pace, duration
from clipself_d2.reproduce.plan import Job

Advance = Callable[[float], None]
Runner = Callable[[Job, Advance], None]

FINISHED = "finished.json"
SPENT = "spent.json"
CONSOLE = "console.txt"


class Session:
    """Runs jobs, each at most once, and says how far it is and how long the rest takes."""

    def __init__(self, jobs: Sequence[Job], run: Runner, console: Console, redo: bool = False) -> None:
        """Sees what has been run before; runs nothing.

        Args:
            jobs: all that will be asked for, each once.
            run: runs a job, which leaves `results.json` (or its regions) in its folder, and reports the share (0..1)
                that is done.
            console: where progress goes.
            redo: run also what has been run before.
        """
        self.console = console
        self._run, self._redo = run, redo
        self._pace = known_pace(jobs)
        self._left = {job.digest: job for job in jobs if redo or not is_finished(job)}
        self._failed: dict[str, InputError | RunError | OSError] = {}
        self._number, self._total = 0, len(self._left)
        self._bar = _Bar(console)
        if done := len(jobs) - len(self._left):
            console.print(f"{done} of {len(jobs)} runs were done before; --redo runs them again")

    def finish(self, jobs: Sequence[Job]) -> None:
        """Run those jobs that are still to be run.

        Args:
            jobs: some of the session's, each after those that it takes something from.

        Raises:
            InputError: when something that is needed is not there; nothing has been run then.
            InputError, RunError, OSError: when a run fails, or has failed before in this session; those before it are
                kept.
        """
        for job in jobs:
            if error := self._failed.get(job.digest):
                raise error
        pending = [job for job in jobs if job.digest in self._left]
        check(pending)
        self._forget()
        with self._bar:
            for job in pending:
                self._finish(job)

    def _forget(self) -> None:
        """Remove what is to be run again, all at once: after an interruption the rest is still known to be undone."""
        if self._redo:
            for job in self._left.values():
                if not missing(job.needs):
                    shutil.rmtree(job.folder, ignore_errors=True)
        self._redo = False

    def _finish(self, job: Job) -> None:
        self._number += 1
        title = f"run {self._number} of {self._total}"
        start = time.monotonic()
        self._bar.show(title, self._pace.total(self._left.values()))
        self.console.print(f"{title}: {job.command}", highlight=False, markup=False, soft_wrap=True)
        del self._left[job.digest]

        def advance(share: float) -> None:
            if share > 0:
                self._pace.record(job, (time.monotonic() - start) / share)
                rest = self._pace.total(self._left.values()) or 0
                self._bar.show(title, rest + (time.monotonic() - start) * (1 - share) / share)

        try:
            with _alone(job, self.console):
                done = is_finished(job)  # by another session in the meantime
                seconds = recorded(job)["seconds"] if done else _run_one(job, self._run, advance)
        except (InputError, RunError, OSError) as error:
            self._failed[job.digest] = error
            raise
        self._pace.record(job, seconds)
        left = self._pace.total(self._left.values())
        rest = f", about {duration(left)} left" if left else ""
        self.console.print(f"{title} took {duration(seconds)}{rest}")


class _Bar:
    """A bar of the session's seconds, and those that are left; it goes away while nothing runs."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None, left="")
        self._start = time.monotonic()

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, title: str, left: float | None) -> None:
        """Show what is being done and the seconds that are left, if that is known."""
        spent = time.monotonic() - self._start
        text = "" if left is None else f"{duration(spent)}, about {duration(left)} left"
        total = None if left is None else spent + left
        self._progress.update(self._task, description=title, completed=spent, total=total, left=text)


def check(jobs: Iterable[Job]) -> None:
    """Raise an InputError, one line, when something that the jobs need is not there."""
    if gaps := missing(need for job in jobs for need in job.needs):
        more = f" (and {len(gaps) - 1} more: see --dry-run)" if len(gaps) > 1 else ""
        raise InputError(f"{gaps[0]}{more}")


def is_finished(job: Job) -> bool:
    """Whether the very run has been finished, and what others take from it is still there."""
    if not (job.folder / FINISHED).is_file() or (job.product and not job.product.is_file()):
        return False
    return bool(recorded(job)["digest"] == job.digest)


def recorded(job: Job) -> dict[str, Any]:
    """Of a finished job: its `digest`, `command`, `seconds` (interrupted attempts included) and `results`."""
    content: dict[str, Any] = json.loads((job.folder / FINISHED).read_text())
    return content


def known_pace(jobs: Iterable[Job]) -> Pace:
    """How long runs take, judged by those of the jobs that are finished."""
    pace = Pace()
    for job in filter(is_finished, jobs):
        pace.record(job, recorded(job)["seconds"])
    return pace


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or none."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def run_tool(job: Job, advance: Advance) -> None:
    """Run a job in a process of its own, which ends with us; all that it prints goes to `console.txt` in its folder.

    Raises:
        InputError, RunError: as the process does, with its line.
    """
    log = job.folder / CONSOLE
    last_error = ""
    command = [sys.executable, str(job.tool), *job.arguments]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with log.open("a") as file, subprocess.Popen(command, **pipe) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if step := re.search(r"\biter (\d+)/(\d+)", line):
                    advance(int(step[1]) / int(step[2]))
                if line.startswith("error: "):
                    last_error = line.removeprefix("error: ").strip()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode == 2:
        raise InputError(last_error or f"{job.folder.name} was refused; see {log}")
    if process.returncode:
        raise RunError(last_error or f"{job.folder.name} ended with exit code {process.returncode}; see {log}")


@contextmanager
def _alone(job: Job, console: Console) -> Iterator[None]:
    """Keep other sessions, of another terminal, from the same run, or wait until they are through with it."""
    file = job.folder.with_name(f".{job.folder.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.print("another process is at it: waiting for that", highlight=False)
                fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _run_one(job: Job, run: Runner, advance: Advance) -> float:
    """Run a job and mark it as finished; returns seconds, those of interrupted attempts included."""
    if not job.run.trains:  # which cannot be resumed
        shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    spent_file, results_file = job.folder / SPENT, job.folder / "results.json"
    before = _spent(spent_file)
    start = time.monotonic()
    try:
        run(job, advance)
    finally:
        seconds = before + time.monotonic() - start
        write_json(spent_file, {"seconds": round(seconds, 1)})
    for written in filter(None, (job.product, results_file if job.judged else None)):
        if not written.is_file():
            raise RunError(f"{written}: was not written; see {job.folder / CONSOLE}")
    results = json.loads(results_file.read_text()) if job.judged else {}
    finished = {"digest": job.digest, "command": job.command, "seconds": round(seconds, 1)}
    write_json(job.folder / FINISHED, {**finished, "results": results})
    spent_file.unlink()
    return seconds


def _spent(file: Path) -> float:
    """Seconds of interrupted attempts; 0 where the file says nothing, which is no reason to stop."""
    try:
        return float(json.loads(file.read_text())["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
