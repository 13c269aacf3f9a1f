"""Runs jobs, each at most once, and keeps what they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError, RunError
from reproduction.needs import check
from reproduction.plan import FINISHED, Job

Runner = Callable[[Job], None]
CONSOLE = "console.txt"
# A hundred runs start from one server that has imported what they need, which takes 10 s of CPU.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [f"clipself_d2.{name}" for name in ("engine.main", "miniature", "detection", "panoptic", "semantic", "evaluation")]
)


class Session:
    """Runs jobs that have not been run before, and says how far it is and how long the rest takes.

    Args:
        jobs: all that will be asked for, each once.
        run: runs a job, which leaves its product and results in its folder.
    """

    def __init__(self, jobs: Iterable[Job], run: Runner) -> None:
        self._run, self._jobs = run, list(jobs)
        self._failed: dict[str, Exception] = {}
        done = sum(job.record is not None for job in self._jobs)
        self._total, self._started = len(self._jobs) - done, 0
        if done:
            say(f"{done} of {len(self._jobs)} runs were done before; --redo runs them again")

    def finish(self, jobs: Iterable[Job]) -> None:
        """Run those jobs that are still to be run.

        Args:
            jobs: some of the session's, each after those that it uses.

        Raises:
            InputError: when something that is needed is not there; nothing has been run then.
            InputError, RunError, OSError: when a run fails, or has failed before in this session.
        """
        pending = [job for job in jobs if not job.record]
        for error in filter(None, (self._failed.get(job.digest) for job in pending)):
            raise error
        check(pending)
        for job in pending:
            self._started += 1
            title = f"run {self._started} of {self._total}"
            say(f"{title}: {job.command}")
            try:
                seconds = run_job(job, self._run)
            except (InputError, RunError, OSError) as error:
                self._failed[job.digest] = error
                raise
            say(f"{title} took {duration(seconds)}, about {duration(time_left(self._jobs))} left")


def time_left(jobs: Sequence[Job]) -> float:
    """Seconds for the unfinished jobs: the mean of finished ones of their config, or else of all finished ones."""
    seconds: dict[Any, list[float]] = defaultdict(list)
    for job in jobs:
        if job.record:
            seconds[job.run.config, job.run.trains].append(job.record["seconds"])
    every = list(chain(*seconds.values())) or [0]
    return sum(mean(seconds.get((job.run.config, job.run.trains), every)) for job in jobs if not job.record)


def say(text: str) -> None:
    """Print to stderr, as stdout is the tables'."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or none."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))


def run_job(job: Job, run: Runner) -> float:
    """Run a job, record that it is finished, and return its seconds; an interrupted training is resumed.

    Raises:
        RunError: when it does not leave what it should.
    """
    written = [path for path in (job.product, job.results) if path]
    job.folder.mkdir(parents=True, exist_ok=True)
    if not job.run.trains:
        for path in written:
            path.unlink(missing_ok=True)
    start = time.monotonic()
    run(job)
    seconds = round(time.monotonic() - start, 1)
    for path in written:
        if not path.is_file():
            raise RunError(f"{path}: was not written; see {job.folder / CONSOLE}")
    results = json.loads(job.results.read_text()) if job.results else {}
    finished = {"digest": job.digest, "command": job.command, "seconds": seconds, "results": results}
    write_json(job.folder / FINISHED, finished)
    return seconds


def run_tool(job: Job) -> None:
    """Run a job's command in a process of its own, which ends with this one; its output goes to `console.txt`.

    Raises:
        InputError, RunError: as the process does, with its line.
    """
    log = job.folder / CONSOLE
    log.touch()
    start = log.stat().st_size
    process = _PROCESSES.Process(target=_call, args=(job.tool, job.arguments, log))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join()  # it may save what it has
        raise
    with log.open(errors="replace") as file:
        file.seek(start)
        errors = [line.removeprefix("error: ").strip() for line in file if line.startswith("error: ")]
    if process.exitcode:
        refused = process.exitcode == 2
        ended = "was refused" if refused else f"ended with exit code {process.exitcode}"
        message = errors[-1] if errors else f"{job.folder.name} {ended}; see {log}"
        raise (InputError if refused else RunError)(message)


def _call(tool: Path, arguments: Sequence[str], log: Path) -> None:
    """Be the process of a command."""
    with log.open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    _PROCESSES.set_forkserver_preload([])  # its own workers need less
    sys.argv = [str(tool), *arguments]
    runpy.run_path(str(tool), run_name="__main__")
