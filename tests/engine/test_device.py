"""GPUs that are missing or too old, said in one line."""

import pytest
import torch

from clipself_d2.engine.inference import check_precision, resolve_device
from clipself_d2.engine.settings import TrainSettings
from clipself_d2.errors import InputError, lack_of_resources

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


def pretend(monkeypatch, available, error=None):
    def init():
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "init", init)


def test_with_a_gpu(monkeypatch):
    pretend(monkeypatch, True)
    assert [resolve_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


@pytest.mark.parametrize("error", [AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("no driver")])
def test_without_a_gpu(monkeypatch, error):
    pretend(monkeypatch, False, error)
    assert [resolve_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match=rf"device cuda: no usable GPU \({error}\); .*train\.device=cpu"):
        resolve_device("cuda")


def test_a_driver_that_is_too_old_is_not_passed_over(monkeypatch):
    pretend(monkeypatch, False, RuntimeError(TOO_OLD))
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"device auto: no usable GPU .*too old"):
        resolve_device("auto")


def test_a_gpu_without_bfloat16(monkeypatch):
    pretend(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(InputError, match=r"train\.precision=bf16: Tesla V100 has no bfloat16; .*fp16"):
        check_precision(TrainSettings(device="cuda", precision="bf16"))
    for device, precision in (("cuda", "fp16"), ("cuda", "fp32"), ("cpu", "bf16")):
        check_precision(TrainSettings(device=device, precision=precision))


def test_too_little_memory():
    line = str(lack_of_resources(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")))
    assert all(hint in line for hint in ("2.00 GiB", "train.accumulate", "activation_checkpointing", "nvidia-smi"))
    assert "nvidia-smi" not in str(lack_of_resources(MemoryError()))
