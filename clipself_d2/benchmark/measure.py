"""Seconds, floating-point operations and memory of calls."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Call = Callable[[], Any]

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which PyTorch does not count
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def medians(calls: Mapping[str, Call], device: str, rounds: int, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that what else the machine does befalls all alike.

    Args:
        calls: by name.
        device: "cuda" waits for the device before and after each call.
        rounds: of all calls, at least 1.
        warmup: rounds before, that do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            elapsed = _seconds(call, device)
            if number >= warmup:
                seconds[name].append(elapsed)
    return {name: median(values) for name, values in seconds.items()}


class Parts:
    """Seconds that a call spends in named methods, each without those that it calls.

    Args:
        methods: name -> object and the name of its method or callable attribute.
        device: see `medians`.
    """

    def __init__(self, methods: Mapping[str, tuple[Any, str]], device: str) -> None:
        self.methods = methods
        self.device = device
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def __call__(self, call: Call, rounds: int) -> dict[str, float]:
        """Medians of each part over some rounds; ``"rest"`` is in none of them."""
        samples: list[dict[str, float]] = []
        with self._watched():
            for _ in range(rounds):
                self.seconds = dict.fromkeys([*self.methods, "rest"], 0.0)
                self._timed("rest", call)
                samples.append(self.seconds)
        return {name: median(sample[name] for sample in samples) for name in samples[0]}

    def _timed(self, part: str, call: Call) -> Any:
        self._inner.append(0.0)
        answer: list[Any] = []
        elapsed = _seconds(lambda: answer.append(call()), self.device)
        self.seconds[part] += elapsed - self._inner.pop()
        self._inner[-1] += elapsed
        return answer[0]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        before = {name: vars(owner).get(method) for name, (owner, method) in self.methods.items()}
        for name, (owner, method) in self.methods.items():
            setattr(owner, method, self._watch(name, getattr(owner, method)))
        try:
            yield
        finally:
            for name, (owner, method) in self.methods.items():
                if before[name] is None:  # the class's own
                    delattr(owner, method)
                else:
                    setattr(owner, method, before[name])

    def _watch(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._timed(part, lambda: method(*args, **kwargs))


def count_flops(call: Call) -> int:
    """Operations of the matrix products and convolutions in a call; a multiplication and its addition are two."""
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}) as counter:
        call()
    return counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def peak_flops(device: str, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations a second of the fastest of some matrix products and convolutions: what the machine can do."""
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    calls: list[Call] = []
    for size in (4096, 8192, 16384) if device == "cuda" else (1024, 2048):
        a, b = torch.randn(size, size, **like), torch.randn(size, size, **like)
        calls.append(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    x = torch.randn(8 if device == "cuda" else 1, 256, 128, 128, **like).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, **like).to(memory_format=torch.channels_last)
    calls.append(lambda: F.conv2d(x, kernel, padding=1))
    with torch.inference_mode():
        return max(count_flops(c) / min(_seconds(c, device) for _ in range(rounds)) for c in calls)


def peak_memory(call: Call, device: str) -> int | None:
    """Most bytes in use during a call: of the device, or resident of the process; None where neither can be told."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what calls before left free would hide what this one takes
        _CLEAR.write_text("5")  # Linux: begins the process's peak anew
        call()
        [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    except (AttributeError, OSError, ValueError):
        return None


def _seconds(call: Call, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
