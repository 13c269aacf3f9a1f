"""What the benchmarks share: random images, timing in turns, operations, memory and the report."""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.benchmark import Compare, Measurement, Timer
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.engine.config import load_config
from clipself_d2.engine.inference import resolve_device
from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import RunError

Call = Callable[[], Any]

IMAGE_SIZE = (480, 640)
"""Rows and columns of most COCO images."""


def prepare(args: argparse.Namespace) -> None:
    """Resolve the device and seed torch.

    Raises:
        InputError: no GPU where one is asked for.
    """
    args.device = resolve_device(args.device)
    torch.manual_seed(0)


def autocast(args: argparse.Namespace) -> torch.autocast:
    """The context of `--precision`."""
    dtype = PRECISIONS[args.precision]
    return torch.autocast(args.device, dtype=dtype, enabled=dtype != torch.float32)


def load_random(args: argparse.Namespace, **values: Any) -> DictConfig:
    """Load the recipe with random weights.

    Args:
        args: with `config_file`, `opts`, `device` and `precision`.
        values: more overrides, a double underscore for the dot of a key; None leaves the recipe's value.
    """
    values = {"clip__pretrained": "null", "train__device": args.device, "train__precision": args.precision, **values}
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in values.items() if value is not None]
    return load_config(args.config_file, [*overrides, *args.opts])


@contextmanager
def with_padding(module: Any) -> Iterator[None]:
    """Let a module read the padding of letterboxed images, as the reference does."""
    skip_padding, module.skip_padding = module.skip_padding, False
    yield
    module.skip_padding = skip_padding


def write_images(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write JPEGs of smooth noise, about as large as COCO's -> their records."""
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = [{"file_name": str(folder / f"{i}.jpg"), "image_id": i} for i in range(count)]
    for record in records:
        coarse = Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE[0] // 8, IMAGE_SIZE[1] // 8, 3), dtype=np.uint8))
        coarse.resize(IMAGE_SIZE[::-1], Image.Resampling.BICUBIC).save(record["file_name"], quality=90)
    return records


def random_image() -> Tensor:
    """An image of noise, uint8."""
    return torch.randint(0, 256, (3, *IMAGE_SIZE), dtype=torch.uint8)


def check_agreement(**figures: tuple[float, float, float]) -> dict[str, float]:
    """Check figures of how ours and the reference agree.

    Args:
        figures: by name the value, and the least and the most that it may be.

    Returns:
        The values by name.

    Raises:
        RunError: a value out of its range, or NaN.
    """
    for name, (value, least, most) in figures.items():
        if not least <= value <= most:
            raise RunError(f"ours and the reference do not agree: {name} is {value:.4g}, not in {least:g}..{most:g}")
    return {name: value for name, (value, _, _) in figures.items()}


def time_in_turns(title: str, calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Time calls in turns, so that a busy machine slows all alike, and print the table.

    Args:
        title: of the table.
        calls: by name.
        rounds: turns of each call; a turn is a warm-up and at least 0.2 s.

    Returns:
        Median seconds by name.
    """
    common: dict[str, Any] = {"label": title, "description": "time", "num_threads": torch.get_num_threads()}
    timers = [Timer("call()", globals={"call": call}, sub_label=name, **common) for name, call in calls.items()]
    turns = [timer.blocked_autorange() for _ in range(rounds) for timer in timers]
    Compare(turns).print()
    return {str(merged.task_spec.sub_label): merged.median for merged in Measurement.merge(turns)}


def measure(title: str, calls: Mapping[str, Call], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time calls in turns -> `seconds`, `flops`, `peak_memory_bytes` and, on a GPU, `waits` (`count_waits`), by name.

    With `--profile` also `kernels`, those of the call named "ours"; see `top_kernels`.
    """
    profile = {"kernels": top_kernels(calls["ours"], args.device)} if args.profile else {}
    return profile | {
        "seconds": time_in_turns(f"{title}, {args.device}", calls, args.rounds),
        "flops": {name: count_flops(call) for name, call in calls.items()},
        "peak_memory_bytes": {name: peak_memory(call, args.device) for name, call in calls.items()},
        "waits": {name: count_waits(call) for name, call in calls.items()} if args.device == "cuda" else {},
    }


def top_kernels(call: Call, device: str, count: int = 10) -> dict[str, float]:
    """The kernels (on the CPU: operators) that take most of a call's time, with their part of it."""
    call()  # what happens once is no part of it
    activities = {"cpu": torch.profiler.ProfilerActivity.CPU, "cuda": torch.profiler.ProfilerActivity.CUDA}
    with torch.profiler.profile(activities=[activities[device]]) as profile:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, kind) for event in profile.key_averages()}
    largest = sorted(times, key=times.__getitem__, reverse=True)[:count]
    return {name: times[name] / max(1, sum(times.values())) for name in largest}


def peak_flops(args: argparse.Namespace) -> float:
    """Operations per second of the device's fastest matrix product, in `--precision`."""
    sizes = (4096, 8192) if args.device == "cuda" else (512, 1024)
    dtype, best = PRECISIONS[args.precision], 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=args.device, dtype=dtype) for _ in range(2))
        timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
        best = max(best, 2 * size**3 / timer.blocked_autorange().median)
    return best


def ratios(seconds: Mapping[str, float], over: str) -> dict[str, float]:
    """How many times as long as each other call the call `over` takes."""
    return {name: seconds[over] / value for name, value in seconds.items() if name != over}


def count_flops(call: Call) -> int:
    """Count the operations of the matrix products and convolutions; a multiplication and its addition are two."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    uncounted = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # by PyTorch itself
    with FlopCounterMode(display=False, custom_mapping={uncounted: attention}) as counter:
        call()
    return counter.get_total_flops()


def peak_memory(call: Call, device: str) -> int | None:
    """Most bytes in use during a call: allocated on the GPU, or resident in the process (None where unknown)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left free would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak
        call()
        [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    except (AttributeError, OSError, ValueError):
        return None


def count_waits(call: Call) -> int:
    """How often the host waits for the GPU during a call."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchronizing" in str(warning.message) for warning in caught)


def report(name: str, numbers: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Print the numbers that the table of times lacks, and write all to `--output`/NAME-DEVICE.json."""
    processor = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    machine = {"device": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    for key, value in numbers.items():
        if isinstance(value, Mapping):
            numeric = {name: each for name, each in value.items() if isinstance(each, (int, float))}
            if numeric:
                print(f"{key}:", ", ".join(f"{name} {each:.4g}" for name, each in numeric.items()))
        elif isinstance(value, (int, float)):
            print(f"{key}: {value:.4g}")
    path = args.output / f"{name}-{args.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**numbers, "settings": settings, "machine": machine}, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text))
    print(f"written to {path}")
