"""A user's words as the classes of a config's model: what is novel, what is stuff, and what is refused."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from clipself_d2.engine.config import build
from clipself_d2.errors import InputError
from clipself_d2.visualization.predictor import set_classes
from clipself_d2.vocabulary import Vocabulary

WORDS = [("cat",), ("puss", "Kitten"), ("dog",), ("parrot",), ("lion",)]


def fake_text():
    """Embeddings that only depend on the names."""

    def embed(classes):
        return torch.tensor([[float(sum(map(ord, "".join(names)))), float(len(names)), 1.0] for names in classes])

    return embed


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    DatasetCatalog.register("toy_pets", lambda: [])
    MetadataCatalog.get("toy_pets").set(thing_classes=[["cat", "kitten"], "dog", "Parrot"], novel_classes=["dog"])
    DatasetCatalog.register("toy_scenes", lambda: [])
    MetadataCatalog.get("toy_scenes").set(
        stuff_classes=["cat", "Dog", "lawn"],
        class_synonyms=[["cat", "kitten"], ["Dog"], ["lawn", "grass"]],
        thing_dataset_id_to_contiguous_id={7: 0, 8: 1},
        novel_classes=["Dog"],
    )

    def make(dataset, **model):
        vocabulary = L(Vocabulary.from_classes)(dataset=dataset, text=L(fake_text)())
        content = {"model": {"vocabulary": vocabulary, **model}, "dataloader": {"test": {"batch_size": 1}}}
        return OmegaConf.create(content, flags={"allow_objects": True})

    return make


@pytest.mark.parametrize(
    ("novel", "is_base"),
    [
        (None, [True, True, False, True, False]),  # by a synonym, in any case, and not where the class is novel
        (["lion"], [True, True, True, True, False]),
        ([], [True, True, True, True, True]),
    ],
)
def test_words_that_are_no_base_class_are_novel(config, novel, is_base):
    cfg = config("toy_pets")
    assert set_classes(cfg, WORDS, novel) == is_base
    vocabulary = build(cfg, "model.vocabulary")
    assert vocabulary.names == ["cat", "puss", "dog", "parrot", "lion"]
    assert vocabulary.is_base.tolist() == is_base
    assert vocabulary.background is not None


def test_a_segmenter_has_no_background_and_knows_stuff(config):
    cfg = config("toy_scenes", isthing=[True], test_vocabulary="other")
    assert set_classes(cfg, [("pet", "KITTEN"), ("grass",), ("dog",), ("sky",)]) == [True, True, False, False]
    assert list(cfg.model.isthing) == [True, False, True, True]
    vocabulary = build(cfg, "model.test_vocabulary")
    assert vocabulary.names == ["pet", "grass", "dog", "sky"] and vocabulary.background is None
    cfg = config("toy_scenes", isthing=[True])
    set_classes(cfg, [("cat",), ("grass",)], stuff=["cat"])
    assert list(cfg.model.isthing) == [False, True]


def test_wrong_words_and_configs_are_one_line(config):
    def refuse(message, cfg, *arguments):
        with pytest.raises(InputError, match=message) as caught:
            set_classes(cfg, *arguments)
            build(cfg, "model.vocabulary")
        assert "\n" not in str(caught.value)

    refuse("vocabulary", config("toy_pets"), [])
    refuse("'cat' is given twice", config("toy_pets"), [("cat",), ("cat", "puss")])
    refuse("novel class 'dog' is not among", config("toy_pets"), [("cat",)], ["dog"])
    refuse("background", config("toy_pets"), [("background",)])
    refuse("not registered", config("no_pets"), [("cat",)])
    refuse("stuff 'sky' is not among", config("toy_scenes", isthing=[True]), [("cat",)], None, ["sky"])
    refuse("--stuff is for", config("toy_scenes"), [("cat",)], None, ["cat"])
    without_text = config("toy_pets")
    without_text.model.vocabulary.text = "rows.npy"
    refuse("no text tower", without_text, [("cat",)])
    without_data = config("toy_pets")
    del without_data.model.vocabulary.dataset
    refuse("no text tower, data set", without_data, [("cat",)])
    without_test = config("toy_pets")
    del without_test.dataloader.test
    refuse("no text tower, data set or test loader", without_test, [("cat",)])
