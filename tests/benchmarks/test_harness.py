"""Timing, counting and refusals that all benchmarks share."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from time import sleep

import detect
import distill
import evaluate
import harness
import pytest
import torch
import torch.nn.functional as F

from clipself_d2.errors import RunError


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ("one", "other")}
    seconds = harness.time_in_turns("turns", calls, rounds=2)
    changes = [order[0], *(b for a, b in pairwise(order) if a != b)]
    assert changes == ["one", "other"] * 2
    assert set(seconds) == {"one", "other"} and all(value < 0.01 for value in seconds.values())


def test_seconds_are_those_of_a_call():
    seconds = harness.time_in_turns("sleep", {"short": lambda: sleep(0.01), "long": lambda: sleep(0.1)}, 1)
    assert 0.01 <= seconds["short"] < 0.1 <= seconds["long"]
    assert harness.ratios({"a": 6.0, "b": 3.0, "c": 2.0}, "a") == {"b": 2, "c": 3}


def test_operations_of_products_and_convolutions():
    a, x, w = torch.randn(3, 4), torch.randn(1, 2, 6, 6), torch.randn(5, 2, 3, 3)
    assert harness.count_flops(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert harness.count_flops(lambda: F.conv2d(x, w)) == 2 * (4 * 4 * 5) * (2 * 9)


def test_operations_of_attention():
    q, k = torch.randn(2, 3, 20, 16), torch.randn(2, 3, 30, 16)
    expected = 2 * 3 * 2 * (2 * 20 * 30 * 16)
    assert harness.count_flops(lambda: F.scaled_dot_product_attention(q, k, k)) == expected
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert harness.count_flops(lambda: F.scaled_dot_product_attention(q, k, k)) == expected


def test_memory_of_a_call():
    small = harness.peak_memory(lambda: None, "cpu")
    if small is None:
        pytest.skip("this system does not tell the peak of a process")
    large = harness.peak_memory(lambda: torch.ones(64 * 2**20, dtype=torch.uint8), "cpu")
    assert 48 * 2**20 < large - small < 128 * 2**20
    assert harness.peak_memory(lambda: None, "cpu") < small + 16 * 2**20  # each call has a peak of its own


def test_figures_out_of_their_range_stop_the_benchmark():
    assert harness.check_agreement(cosine=(0.99, 0.98, 1), difference=(0.0, 0, 0)) == {"cosine": 0.99, "difference": 0}
    for value in (0.97, float("nan")):
        with pytest.raises(RunError, match=r"do not agree: cosine is .*, not in 0\.98\.\.1"):
            harness.check_agreement(cosine=(value, 0.98, 1))


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (distill, ["--batch", "0"], "argument --batch: must be at least 1"),
        (distill, ["--config-file", "nowhere.py"], "nowhere.py: no such config file"),
        (detect, ["--rounds", "x"], "argument --rounds: invalid integer value: 'x'"),
        (detect, ["--size", "0"], "model.size=0: not a multiple of the tower's stride"),
        (detect, ["--device", "tpu"], "argument --device: invalid choice"),
        (detect, ["model.sise=3"], "model.sise: unknown config key 'sise'; did you mean 'size'?"),
        (evaluate, ["--classes", "5"], "argument --classes: must be at least 6"),
        (evaluate, ["--model", "BERT"], "BERT"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(script, arguments, message, capsys):
    assert script.main(["--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(capsys):
    assert detect.main(["--device", "cuda"]) == 2
    assert "no usable GPU" in capsys.readouterr().err


SCRIPTS = [
    *("data", "detect", "distill", "evaluate", "gpu", "int8", "memory", "models", "panoptic", "scale", "streams"),
    "teacher",
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_comes_before_the_slow_imports(name):
    script = Path(harness.__file__).with_name(f"{name}.py")
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.path[0] = {str(script.parent)!r}\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert f"python benchmarks/{name}.py" in done.stdout and done.stdout.endswith("False\n")


def test_all_scripts_are_tested():
    folder = Path(harness.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.py") if "def main(" in path.read_text()) == SCRIPTS
