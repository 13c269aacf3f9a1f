"""Every model of the project, in training and in inference, on a simulated second device."""

import json

import agreement
import pytest
import torch

from clipself_d2.engine.config import build, load_config
from tests.detection.tiny import CONFIGS, RESNET
from tests.second_device import SecondDevice

pytestmark = pytest.mark.usefixtures("few_scenes")


@pytest.mark.parametrize("name", agreement.MODELS)
def test_a_second_device_gives_what_the_cpu_gives(name):
    model = agreement.MODELS[name]
    cpu = agreement.run(model, "cpu")
    with SecondDevice():
        device = agreement.run(model, "cuda")
    # Drawn from the CPU's generator on the simulated device: even a model that draws there gives the same.
    assert cpu.losses or cpu.predictions
    assert device.losses == pytest.approx(cpu.losses) and str(device.results) == str(cpu.results)
    figures = agreement.compare(cpu, device, model.draws)
    assert all(figure < 1e-5 for figure in figures.values()), figures
    assert figures or model.draws


@pytest.mark.parametrize("name", ["tiny-vit-8", "tiny-eva-14", "tiny-resnet"])
def test_a_second_device_gives_a_towers_outputs(name, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**CONFIGS, "tiny-resnet": RESNET}[name]))
    cpu = agreement.run_tower(str(path), "cpu")
    assert cpu.gradient.any() and cpu.predictions[1].shape[3] == cpu.predictions[1].shape[2] + 2
    with SecondDevice():
        device = agreement.run_tower(str(path), "cuda")
    figures = agreement.compare(cpu, device)
    assert set(figures) == {"gradient", "numbers"} and all(figure < 1e-5 for figure in figures.values()), figures


@pytest.mark.parametrize("name", [name for name in agreement.MODELS if name not in ("CLIP", "mask generator")])
def test_a_batch_gives_what_its_images_give(name):
    recipe = agreement.MODELS[name]
    cfg = load_config(agreement.CONFIGS / recipe.config, [*recipe.overrides, "train.device=cpu"])
    torch.manual_seed(0)
    model = build(cfg, "model").eval()
    samples = agreement.first_batch(cfg, "test")
    assert len(samples) == 2
    with torch.inference_mode():
        together, alone = model(samples), [model([sample])[0] for sample in samples]
    pairs = list(zip(agreement.tensors(together), agreement.tensors(alone), strict=True))
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_differences_are_found():
    scores, labels = torch.tensor([0.5, 0.2]), torch.tensor([1, 2, 3, 4])
    one = agreement.Outputs({"loss": 2.0}, torch.tensor([1.0, 0.0]), [scores, labels])
    other = agreement.Outputs({"loss": 2.2}, torch.tensor([3.0, 4.0]), [scores + 0.1, labels.flip(0)])
    figures = agreement.compare(one, other)
    assert figures == pytest.approx({"loss": 0.1, "gradient": 0.4, "numbers": 0.1, "labels": 1.0})
