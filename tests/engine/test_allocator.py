import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from clipself_d2.engine.allocator import keep_freed_memory

def step():
    activations = [torch.ones(2**24) for _ in range(3)]  # 64 MiB each

def faults():
    step()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
keep_freed_memory()
print(faults(), returned)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_tensors_take_the_places_of_those_that_are_gone():
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, returned = map(int, answer.stdout.split())
    assert kept < 0.9 * returned
