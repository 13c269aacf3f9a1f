"""The vocabulary of a call, the model's own, and those that do not fit."""

import pytest
import torch

from clipself_d2.errors import InputError
from tests.detection.tiny import CLASSES, build_detector, build_words, everything, random_image, scene


def test_a_vocabulary_of_the_call_equals_one_of_the_model(tower):
    other = build_words(["green heart", "red disc", "red star"], ["red disc"])
    model = build_detector(tower()).eval()
    theirs = build_detector(tower(), vocabulary=other).eval()
    photos = [random_image(), random_image(64, 20)]
    for ours, rebuilt in zip(model(photos, other), theirs(photos), strict=True):
        assert torch.equal(ours["instances"].scores, rebuilt["instances"].scores)
        assert torch.equal(ours["instances"].pred_classes, rebuilt["instances"].pred_classes)
        assert torch.equal(ours["instances"].pred_boxes.tensor, rebuilt["instances"].pred_boxes.tensor)
    own = build_detector(tower()).eval()
    for ours, fresh in zip(model(photos), own(photos), strict=True):  # and nothing of it stays
        assert torch.equal(ours["instances"].scores, fresh["instances"].scores)


def test_a_vocabulary_of_the_call_in_training(tower, storage):
    base = build_words(CLASSES[:3], [])
    losses = []
    for vocabulary in (None, base):
        model = build_detector(tower()).train()
        torch.manual_seed(3)
        losses.append({name: x.item() for name, x in model([scene(0), scene(1)], vocabulary).items()})
    assert losses[0] == pytest.approx(losses[1])


def test_vocabularies_that_do_not_fit(tower):
    model = build_detector(tower()).eval()
    with pytest.raises(InputError, match="its embeddings have length 24, the image tower's 16: use the text tower of"):
        model([random_image()], build_words(length=24))
    words = build_words()
    words.background = None
    with pytest.raises(InputError, match="needs a background"):
        model([random_image()], words)
    with pytest.raises(InputError, match="have length 8"):
        build_detector(tower(), vocabulary=build_words(length=8))


def test_objects_that_the_vocabulary_does_not_allow(tower, storage):
    model = build_detector(tower()).train()
    x = scene(0) | {"file_name": "000000000139.jpg"}
    x["instances"].gt_classes[1] = 4
    with pytest.raises(InputError, match=r"000000000139\.jpg: has an object of 'blue star', which .* novel") as caught:
        model([scene(1), x])
    assert "\n" not in str(caught.value)
    x["instances"].gt_classes[1] = 5
    with pytest.raises(InputError, match="has an object of class 5, the vocabulary's 5 classes count from 0"):
        model([x])


def test_a_learned_background_is_of_the_model(tower, storage):
    model = build_detector(tower(), classifier={"learned_background": 16}).train()
    sum(model([scene(0)]).values()).backward()
    assert model.roi_heads.classifier.background.grad.any()
    assert len(model.eval()([random_image()], build_words(["cube"], []))) == 1


def test_a_fixed_temperature_at_evaluation(tower):
    photos = [random_image()]
    learned = build_detector(tower(), classifier={"temperature": 20}).eval()
    fixed = build_detector(tower(), classifier={"temperature": 20, "fixed_temperature": 50}).eval()
    fifty = build_detector(tower(), classifier={"temperature": 50}).eval()
    scores = [everything(m)(photos)[0]["instances"].scores for m in (learned, fixed, fifty)]
    assert torch.equal(scores[1], scores[2]) and not torch.allclose(scores[0], scores[1])
