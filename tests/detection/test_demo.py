"""A detector on a user's words: what counts as unseen, and what is written of a detection."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf

from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.detection.demo import detect, to_results, user_vocabulary
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import Vocabulary


def fake_text():
    """Rows that only depend on the names."""

    def embed(classes):
        rows = [[float(sum(map(ord, "".join(names)))), float(len(names)), 1.0] for names in classes]
        return torch.tensor(rows)

    return embed


@pytest.fixture
def cfg(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    DatasetCatalog.register("toy_pets", lambda: [])
    MetadataCatalog.get("toy_pets").set(thing_classes=[["cat", "kitten"], "dog", "Parrot"], novel_classes=["dog"])
    model = {"vocabulary": L(dataset_vocabulary)(dataset="toy_pets", text=L(fake_text)())}
    return OmegaConf.create({"model": model}, flags={"allow_objects": True})


@pytest.mark.parametrize(
    ("novel", "seen"),
    [
        (None, [True, True, False, True, False]),  # by a synonym, in any case, and not where the class is novel
        (["lion"], [True, True, True, True, False]),
        ([], [True, True, True, True, True]),
    ],
)
def test_words_that_no_training_label_named_are_unseen(cfg, novel, seen):
    classes = [("cat",), ("puss", "Kitten"), ("dog",), ("parrot",), ("lion",)]
    vocabulary = user_vocabulary(cfg, classes, novel)
    assert vocabulary.names == ["cat", "puss", "dog", "parrot", "lion"]
    assert vocabulary.is_base.tolist() == seen
    assert vocabulary.background is not None and vocabulary.text_embeddings.shape == (5, 3)


def test_wrong_words_and_configs_are_one_line(cfg):
    for classes, novel, message in [
        ([], None, "vocabulary"),
        ([("cat",), ("cat", "puss")], None, "'cat' is given twice"),
        ([("cat",)], ["dog"], "novel class 'dog' is not among"),
        ([("background",)], None, "background"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            user_vocabulary(cfg, classes, novel)
        assert "\n" not in str(caught.value)
    del cfg.model.vocabulary.dataset
    with pytest.raises(InputError, match="say --novel"):
        user_vocabulary(cfg, [("cat",)])
    cfg.model.vocabulary.text = "rows.npy"
    with pytest.raises(InputError, match="has no text tower"):
        user_vocabulary(cfg, [("cat",)], [])


def instances(boxes, scores, classes, size=(10, 20)):
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.long)
    return found


def test_results_are_cocos_best_first():
    vocabulary = Vocabulary(["cat", "dog"], torch.eye(2), novel=["dog"])
    results = to_results(instances([[1, 2, 4, 8], [0, 0, 3.125, 1]], [0.25, 0.75], [0, 1]), vocabulary, 9)
    assert results == [
        {"image_id": 9, "category_id": 1, "bbox": [0, 0, 3.12, 1], "score": 0.75, "name": "dog", "seen": False},
        {"image_id": 9, "category_id": 0, "bbox": [1, 2, 3, 6], "score": 0.25, "name": "cat", "seen": True},
    ]
    assert to_results(instances([], [], []), vocabulary, 9) == []


def test_images_come_in_batches_and_leave_in_order():
    sizes = []

    def model(inputs, vocabulary):
        assert not torch.is_grad_enabled() and vocabulary == "words"
        sizes.append(len(inputs))
        assert all((x["height"], x["width"]) == tuple(x["image"].shape[1:]) for x in inputs)
        return [{"instances": SimpleNamespace(to=lambda device, x=x: int(x["image"][0, 0, 0]))} for x in inputs]

    images = [torch.full((3, 4 + i, 5), i, dtype=torch.uint8) for i in range(5)]
    found = list(detect(model, iter(images), "words", 2, nullcontext()))
    assert sizes == [2, 2, 1] and [number for _, number in found] == [0, 1, 2, 3, 4]
    assert all(image is given for (image, _), given in zip(found, images, strict=True))
