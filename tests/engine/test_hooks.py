import logging
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from clipself_d2.engine import hooks
from clipself_d2.engine.hooks import EarlyEstimate, Throughput


def ended(data_times, times, caplog):
    """What is logged at the end of a run whose first two iterations were not timed."""
    hook = Throughput()
    with EventStorage(0) as storage, caplog.at_level(logging.INFO):
        for iteration, wait in enumerate(data_times):
            storage.put_scalar("data_time", wait)
            if iteration >= 2 and iteration - 2 < len(times):
                storage.put_scalar("time", times[iteration - 2])
            storage.step()
        hook.trainer = SimpleNamespace(storage=storage)
        hook.after_train()
    return [record.message for record in caplog.records]


def test_the_share_of_waiting_is_of_the_timed_iterations(caplog):
    assert ended([50, 9, 0.1, 0.3], [4.0, 6.0], caplog) == ["Waited for data 4 % of the time"]


def test_a_long_wait_comes_with_advice(caplog):
    # The last iteration failed before it was timed.
    [message] = ended([0, 0, 1, 2, 9], [4.0, 8.0], caplog)
    assert message == "Waited for data 25 % of the time; raise dataloader.train.num_workers"


@pytest.mark.parametrize("data_times", [[], [1, 1]])
def test_nothing_is_said_of_a_run_that_was_not_timed(data_times, caplog):
    assert ended(data_times, [], caplog) == []


@pytest.mark.parametrize(("steps", "said"), [(12, ["A step takes 90.00 s; about 0:15:00 left"]), (2, [])])
def test_an_estimate_after_the_second_step(steps, said, monkeypatch, caplog):
    """The first step, which warms up, takes 300 s, each other one 90 s."""
    now = [0.0]
    monkeypatch.setattr(hooks, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    hook = EarlyEstimate()
    hook.trainer = SimpleNamespace(start_iter=5, max_iter=5 + steps)
    with caplog.at_level(logging.INFO):
        for hook.trainer.iter in range(5, 5 + steps):
            hook.before_step()
            now[0] += 300 if hook.trainer.iter == 5 else 90
            hook.after_step()
    assert [record.message for record in caplog.records] == said
