import pytest

from clipself_d2.reproduce.pace import Pace, duration
from clipself_d2.reproduce.plan import Planner
from clipself_d2.reproduce.table import Run
from tests.reproduce.fake import write_config


@pytest.fixture
def jobs(tmp_path, photographs):
    """Trainings of 10 and 30 steps, an evaluation, and a training of another config."""
    first, other = write_config(tmp_path), write_config(tmp_path, name="other")
    runs = Run(first), Run(first, ("train.max_iter=30",)), Run(first).untouched(), Run(other, ("train.max_iter=20",))
    return [Planner(tmp_path).job(run) for run in runs]


def test_nothing_is_known_at_first(jobs):
    assert Pace().seconds(jobs[0]) is None
    assert Pace().total(jobs) is None
    assert Pace().total([]) == 0


def test_a_job_of_the_same_kind_tells_most(jobs):
    short, long, evaluation, other = jobs
    pace = Pace()
    pace.record(evaluation, 15)
    per_cost = 15 / evaluation.cost
    assert pace.seconds(long) == pytest.approx(long.cost * per_cost)  # for want of a training
    pace.record(other, 200)
    assert pace.seconds(long) == pytest.approx(200 * (30 + 30) / (20 + 30))  # an evaluation is 30 steps
    pace.record(short, 20)
    assert pace.seconds(long) == pytest.approx(20 * (30 + 30) / (10 + 30))
    assert (pace.seconds(short), pace.seconds(evaluation)) == (20, 15)
    assert pace.total([long, evaluation]) == pytest.approx(30 + 15)


def test_duration():
    assert [duration(seconds) for seconds in (0.4, 75, 3661.6)] == ["0:00:00", "0:01:15", "1:01:02"]
