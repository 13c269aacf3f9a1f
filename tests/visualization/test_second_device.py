"""What users look at, drawn from a model on a simulated second device."""

import numpy as np
import torch

from clipself_d2 import miniature
from clipself_d2.engine import inference
from clipself_d2.engine.config import load_config
from clipself_d2.visualization import predictor
from clipself_d2.visualization.web import Models
from tests.second_device import CUDA, SecondDevice

WORDS = [("red star",), ("blue heart", "heart"), ("grass",)]


def draw(device):
    """The pictures of all tabs of the page; then with other words, which the models of these tabs are given."""

    def predict(name, *overrides):
        cfg = load_config(f"miniature/{name}", [f"train.device={device}", "train.precision=fp32", *overrides])
        return predictor.Predictor(cfg, WORDS, weights="null" if name == "zero_shot_semantic" else "")

    before = predict("zero_shot_semantic", f"clip.pretrained={miniature.WEIGHTS}")
    trained = {"Boxes": "detector", "Panoptic": "panoptic_segmenter", "CAT-Seg": "semantic_segmenter"}
    models = Models(predict("zero_shot_semantic"), before, {title: predict(name) for title, name in trained.items()})
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert next(models.trained["Boxes"].model.parameters()).device.type == device
    views = {view.title: view for view in models.views()}
    drawn = [(view, WORDS) for view in views.values()]
    drawn += [(views[title], WORDS[:2]) for title in ("Regions", "Panoptic", "CAT-Seg", "Segments")]
    return [np.asarray(view.draw(image, words, view.slider.low if view.slider else 0)) for view, words in drawn]


def test_every_tab_of_the_page(monkeypatch):
    expected = draw("cpu")
    for module in (inference, predictor):
        monkeypatch.setattr(module, "resolve_device", lambda name: name)
    with SecondDevice():
        found = draw(CUDA.type)
    assert len(found) == len(expected) == 11
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
