import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clipself_d2.benchmark import measure
from clipself_d2.benchmark.measure import Parts, count_flops, medians, peak_flops, peak_memory


class Clock:
    """Stands still but for what is waited."""

    now = 0.0

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_calls_take_turns_and_the_warm_up_does_not_count(clock):
    order = []
    waits = iter([20, 0, 1, 5, 2])

    def slow():
        order.append("slow")
        clock.wait(next(waits))

    seconds = medians({"slow": slow, "fast": lambda: order.append("fast")}, "cpu", rounds=3, warmup=2)
    assert order == ["slow", "fast"] * 5
    assert seconds == {"slow": 2, "fast": 0}


class Outer(nn.Module):
    """Takes 2 s of its own, and twice 3 in its part."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.inner = nn.Identity()
        self.pool = lambda x: clock.wait(3)

    def forward(self, x):
        self.pool(x)
        self.clock.wait(2)
        self.pool(x)
        return self.inner(x)


def test_parts_are_without_the_parts_in_them(clock):
    model = Outer(clock)
    pool = model.pool
    parts = Parts({"outer": (model, "forward"), "pool": (model, "pool"), "inner": (model.inner, "forward")}, "cpu")

    def call():
        clock.wait(1)
        assert model(3) == 3

    assert parts(call, rounds=3) == {"outer": 2, "pool": 6, "inner": 0, "rest": 1}
    assert model.pool is pool
    assert "forward" not in vars(model) and "forward" not in vars(model.inner)


def test_operations_of_products_and_convolutions():
    a, x, w = torch.randn(3, 4), torch.randn(1, 2, 6, 6), torch.randn(5, 2, 3, 3)
    assert count_flops(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert count_flops(lambda: nn.functional.conv2d(x, w)) == 2 * (4 * 4 * 5) * (2 * 9)


def test_operations_of_attention():
    q, k = torch.randn(2, 3, 20, 16), torch.randn(2, 3, 30, 16)
    expected = 2 * 3 * 2 * (2 * 20 * 30 * 16)
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, k, k)) == expected
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert count_flops(lambda: nn.functional.scaled_dot_product_attention(q, k, k)) == expected


def test_the_peak_is_above_a_small_product():
    a = torch.randn(8, 8)
    start = time.perf_counter()
    a @ a
    assert peak_flops("cpu", torch.float32, rounds=1) > 2 * 8**3 / (time.perf_counter() - start)


def test_memory_of_a_call():
    small = peak_memory(lambda: None, "cpu")
    if small is None:
        pytest.skip("this system does not tell the peak of a process")
    large = peak_memory(lambda: torch.ones(64 * 2**20, dtype=torch.uint8), "cpu")
    assert 48 * 2**20 < large - small < 128 * 2**20
    assert peak_memory(lambda: None, "cpu") < small + 16 * 2**20  # each call has a peak of its own
