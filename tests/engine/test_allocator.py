import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from clipself_d2.engine.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    activations = [torch.ones(2**24) for _ in range(3)]  # 64 MiB each

step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what):
    answer = subprocess.run([sys.executable, "-c", CODE, what], capture_output=True, text=True, check=True)
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_tensors_take_the_places_of_those_that_are_gone():
    assert faults("keep") < 0.9 * faults("return")
