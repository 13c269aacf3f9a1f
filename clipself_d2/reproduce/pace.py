"""How long runs take, judged by those that are finished."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from clipself_d2.reproduce.plan import Job


class Pace:
    """Seconds that jobs take: at the pace of their own kind where one is known, else of all that are."""

    def __init__(self) -> None:
        """No job is known yet."""
        self._known: dict[str, tuple[Job, float]] = {}

    def record(self, job: Job, seconds: float) -> None:
        """Learn how long a job takes."""
        self._known[job.digest] = job, seconds

    def seconds(self, job: Job) -> float | None:
        """What a job is expected to take; None as long as nothing is known.

        A kind is what runs a config in the same way: trainings of F-ViT, whatever their towers and steps.
        """
        if job.digest in self._known:
            return self._known[job.digest][1]
        for measure in (_kind, _trains, _any):
            alike = [(other.cost, took) for other, took in self._known.values() if measure(other) == measure(job)]
            if alike:
                return job.cost * sum(took for _, took in alike) / sum(cost for cost, _ in alike)
        return None

    def total(self, jobs: Iterable[Job]) -> float | None:
        """What several jobs are expected to take together; None as long as nothing is known."""
        expected = [self.seconds(job) for job in jobs]
        return None if None in expected else sum(filter(None, expected))


def duration(seconds: float) -> str:
    """`1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def _kind(job: Job) -> object:
    return job.run.config, job.run.trains, job.run.tool


def _trains(job: Job) -> object:
    return job.run.trains


def _any(job: Job) -> object:
    return True
