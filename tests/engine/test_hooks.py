import logging
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from clipself_d2.engine.hooks import Throughput


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
