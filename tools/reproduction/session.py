"""Runs jobs, each at most once, and keeps what they leave."""

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
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError, RunError
from reproduction.plan import Job, check

Advance = Callable[[float], None]
Runner = Callable[[Job, Advance], None]
FINISHED = "finished.json"
CONSOLE = "console.txt"


class Session:
    """Runs jobs that have not been run before, and prints how far it is and how long the rest takes.

    Args:
        jobs: all that will be asked for, each once.
        run: runs a job, which leaves its product and results in its folder, and reports the share (0..1) that is done.
        console: where progress goes.
        redo: run also what has been run before.
    """

    def __init__(self, jobs: Sequence[Job], run: Runner, console: Console, redo: bool = False) -> None:
        self.console = console
        self._run = run
        self._redo = redo
        self._known = {job.digest: (job, recorded(job)["seconds"]) for job in jobs if is_finished(job)}
        self._left = {job.digest: job for job in jobs if redo or not is_finished(job)}
        self._failed: dict[str, Exception] = {}
        self._total = len(self._left)
        if done := len(jobs) - len(self._left):
            console.print(f"{done} of {len(jobs)} runs were done before; --redo runs them again")

    def finish(self, jobs: Sequence[Job]) -> None:
        """Run those jobs that are still to be run.

        Args:
            jobs: some of the session's, each after those that it uses.

        Raises:
            InputError: when something that is needed is not there; nothing has been run then.
            InputError, RunError, OSError: when a run fails, or has failed before in this session.
        """
        for job in jobs:
            if job.digest in self._failed:
                raise self._failed[job.digest]
        pending = [job for job in jobs if job.digest in self._left]
        check(pending)
        if self._redo:  # all at once: after an interruption the rest is still known to be undone
            for job in self._left.values():
                if all(job.needs.values()):
                    shutil.rmtree(job.folder, ignore_errors=True)
            self._redo = False
        for job in pending:
            try:
                self._finish(job)
            except (InputError, RunError, OSError) as error:
                self._failed[job.digest] = error
                raise

    def _finish(self, job: Job) -> None:
        title = f"run {self._total - len(self._left) + 1} of {self._total}"
        del self._left[job.digest]
        self.console.print(f"{title}: {job.command}", highlight=False, markup=False, soft_wrap=True)
        start = time.monotonic()
        with self.console.status(title) as status, _lock(job, self.console):

            def advance(share: float) -> None:
                if share > 0:
                    seconds = time.monotonic() - start
                    self._known[job.digest] = job, seconds / share
                    rest = seconds * (1 - share) / share + (expected(self._left.values(), self._known) or 0)
                    status.update(f"{title}, {share:.0%}; about {duration(rest)} left for all")

            if not is_finished(job):  # by another session in the meantime
                run_job(job, self._run, advance)
        seconds = recorded(job)["seconds"]
        self._known[job.digest] = job, seconds
        left = expected(self._left.values(), self._known)
        self.console.print(
            f"{title} took {duration(seconds)}"
            + (f", about {duration(left)} left" if left is not None and self._left else "")
        )


def expected(jobs: Iterable[Job], known: dict[str, tuple[Job, float]]) -> float | None:
    """Seconds that jobs take together; None as long as nothing is known.

    A job takes as long as it took before, or else its cost at the pace of runs of the same config in the same way (of
    trainings of F-ViT, whatever their towers and steps), or else of all known runs.
    """
    total = 0.0
    for job in jobs:
        kind = job.run.config, job.run.trains, job.run.tool
        alike = [each for each in known.values() if (each[0].run.config, each[0].run.trains, each[0].run.tool) == kind]
        measured = [known[job.digest]] if job.digest in known else alike or list(known.values())
        if not measured:
            return None
        total += job.cost * sum(seconds for _, seconds in measured) / sum(other.cost for other, _ in measured)
    return total


def duration(seconds: float) -> str:
    """`1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def is_finished(job: Job) -> bool:
    """Whether the very run has been finished, and what others take from it is still there."""
    there = (job.folder / FINISHED).is_file() and (job.product is None or job.product.is_file())
    return there and recorded(job)["digest"] == job.digest


def recorded(job: Job) -> dict[str, Any]:
    """Of a finished job its `digest`, `command`, `seconds` and `results`."""
    content: dict[str, Any] = json.loads((job.folder / FINISHED).read_text())
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or none."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def run_job(job: Job, run: Runner, advance: Advance) -> None:
    """Run a job and mark it as finished; an interrupted training is resumed.

    Raises:
        RunError: when it does not leave what it should.
    """
    if not job.run.trains:
        shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    run(job, advance)
    seconds = round(time.monotonic() - start, 1)
    results = job.folder / "results.json" if job.has_results else None
    for written in filter(None, (job.product, results)):
        if not written.is_file():
            raise RunError(f"{written}: was not written; see {job.folder / CONSOLE}")
    numbers = json.loads(results.read_text()) if results else {}
    finished = {"digest": job.digest, "command": job.command, "seconds": seconds, "results": numbers}
    write_json(job.folder / FINISHED, finished)


def run_tool(job: Job, advance: Advance) -> None:
    """Run a job's command in a process of its own, which ends with this one; its output goes to `console.txt`.

    Raises:
        InputError, RunError: as the process does, with its line.
    """
    log, last_error = job.folder / CONSOLE, ""
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
    if process.returncode:
        refused = process.returncode == 2
        ended = "was refused" if refused else f"ended with exit code {process.returncode}"
        raise (InputError if refused else RunError)(last_error or f"{job.folder.name} {ended}; see {log}")


@contextmanager
def _lock(job: Job, console: Console) -> Iterator[None]:
    """Keep sessions of other terminals from the same run, or wait until they are through with it."""
    path = job.folder.with_name(f".{job.folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.print("another process is at it: waiting for that", highlight=False)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
