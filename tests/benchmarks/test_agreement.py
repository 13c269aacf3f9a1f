"""Every model of the project, in training and in inference, on a simulated second device."""

import agreement
import pytest
import torch

from tests.second_device import SecondDevice


@pytest.mark.parametrize("name", agreement.MODELS)
def test_a_second_device_gives_what_the_cpu_gives(name):
    model = agreement.MODELS[name]
    cpu = agreement.run(model, "cpu")
    with SecondDevice():
        device = agreement.run(model, "cuda")
    # Drawn from the CPU's generator on the simulated device: even a model that draws there gives the same.
    assert cpu.losses or cpu.predictions
    assert device.losses == pytest.approx(cpu.losses)
    figures = agreement.compare(model, cpu, device)
    assert all(figure < 1e-5 for figure in figures.values()), figures
    assert figures or model.draws


def test_differences_are_found():
    model = agreement.MODELS["CLIPSelf"]
    scores, labels = torch.tensor([0.5, 0.2]), torch.tensor([1, 2, 3, 4])
    one = agreement.Outputs({"loss": 2.0}, torch.tensor([1.0, 0.0]), [scores, labels])
    other = agreement.Outputs({"loss": 2.2}, torch.tensor([3.0, 4.0]), [scores + 0.1, labels.flip(0)])
    figures = agreement.compare(model, one, other)
    assert figures == pytest.approx({"loss": 0.1, "gradient": 0.4, "numbers": 0.1, "labels": 1.0})
