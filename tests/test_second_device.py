import numpy as np
import pytest
import torch
from torch import nn

from tests.second_device import CUDA, HostWaits, SecondDevice


@pytest.fixture(autouse=True)
def _simulation():
    with SecondDevice():
        yield


HERE = torch.ones(3, 4)


def there():
    return torch.full((3, 4), 2.0, device="cuda")


def test_tensors_are_where_they_were_put():
    x = there()
    assert x.device == CUDA and x.is_cuda
    moved = [HERE.to("cuda"), HERE.to(CUDA, torch.float64), HERE.cuda(), HERE.to(device="cuda:0"), HERE.to(x)]
    made = [
        x + 1,
        x.mT,
        x[0],
        x.max(dim=0).values,
        x.new_zeros(2),
        torch.zeros_like(x),
        torch.cat([x, x]),
        x * HERE[0, 0],
    ]
    assert all(y.device == CUDA for y in moved + made)
    back = [x.cpu(), x.to("cpu"), x.to(HERE), x.new_zeros(2, device="cpu"), torch.tensor([x[0, 0], x[0, 1]])]
    assert all(y.device.type == "cpu" for y in back)
    assert HERE.device.type == "cpu"


def test_values_are_those_of_the_cpu():
    assert (there() + HERE.cuda()).sum().item() == 36
    assert torch.equal((there() @ there().T).cpu(), torch.full((3, 3), 16.0))


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HERE,
        lambda x: HERE * x[0, 0],
        lambda x: torch.cat([x, HERE]),
        lambda x: HERE[torch.tensor([0], device="cuda")],
        lambda x: HERE[x > 0],
        lambda x: nn.Linear(4, 2)(x),
        lambda x: nn.Linear(4, 2).to("cuda")(HERE),
    ],
)
def test_two_devices_in_one_operation_are_an_error(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(there())


def test_what_cuda_allows():
    x = there()
    assert x[torch.tensor([0, 2])].device == CUDA  # indices of the CPU
    x[0] = HERE[0]
    x.copy_(HERE)
    assert x.sum().item() == 12


def test_numpy_asks_for_the_cpu():
    for read in (there().numpy, lambda: np.asarray(there())):
        with pytest.raises(TypeError, match="cpu"):
            read()


def test_modules_move_and_train():
    layer = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).to("cuda")
    assert all(tensor.device == CUDA for tensor in layer.state_dict().values())
    assert all(isinstance(parameter, nn.Parameter) for parameter in layer.parameters())
    layer(there()).sum().backward()
    assert layer[0].weight.grad is not None


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x.sum()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: HERE.to("cuda"),
        lambda x: x.copy_(HERE),
        lambda x: torch.tensor([1.0], device="cuda"),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[x > 0],
        lambda x: x[[0, 2]],
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
    ],
)
def test_waits_of_the_host_are_listed(wait):
    x = there()
    with HostWaits() as waits:
        wait(x)
    assert len(waits.lines) == 1 and __file__ in waits.lines[0]


@pytest.mark.parametrize(
    "work",
    [
        lambda x: (x + 1).sum(),
        lambda x: HERE.tolist(),
        lambda x: HERE[HERE > 0],
        lambda x: HERE.to("cuda", non_blocking=True),
        lambda x: x.copy_(HERE, non_blocking=True),
        lambda x: x.to("cuda", torch.float64),
        lambda x: x[torch.zeros(2, dtype=torch.long, device="cuda")],
        lambda x: x[:, None, 1:],
        lambda x: x.masked_fill_(x > 0, 1),
        lambda x: x.__setitem__(x > 0, 0),
        lambda x: torch.where(x > 0, x, 0),
    ],
)
def test_work_without_waits(work):
    x = there()
    with HostWaits() as waits:
        work(x)
    assert waits.lines == []
