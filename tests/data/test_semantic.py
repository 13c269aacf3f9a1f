"""Crops of semantic labels, and the vocabulary of a semantic data set."""

import numpy as np
import pytest
import torch
from PIL import Image

import clipself_d2.data  # noqa: F401  (registers the data sets)
from clipself_d2.data import register_semantic
from clipself_d2.data.semantic import SemanticMapper, jitter_colors
from clipself_d2.data.vocabulary import panoptic_vocabulary, unseen_classes
from clipself_d2.errors import InputError


@pytest.fixture
def record(tmp_path):
    """An image whose red level is its label: 20 x 30, four quarters."""
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[10:], labels[:, 15:] = 2, labels[:, 15:] + 1
    labels[10:, 15:] = 255
    levels = np.zeros((20, 30, 3), dtype=np.uint8)
    levels[..., 0] = np.where(labels == 255, 90, labels * 30)
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "a_labels.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "a_labels.png"),
        "image_id": 3,
    }


def test_image_and_labels_are_cut_alike(record):
    mapper = SemanticMapper(10, colors=False)
    mirrored = set()
    for seed in range(12):
        sample = mapper(record, np.random.default_rng(seed))
        assert sample["image"].shape == (3, 10, 10) and sample["sem_seg"].shape == (10, 10)
        assert (sample["height"], sample["width"], sample["image_id"]) == (20, 30, 3)
        red, labels = sample["image"][0].long(), sample["sem_seg"]
        expected = torch.where(labels == 255, 90, labels * 30)
        close = (red - expected).abs() < 8  # but for the resampled edges
        assert close.float().mean() > 0.7
        mirrored.add(bool(labels[0, 0] > labels[0, -1]))
    assert mirrored == {False, True}
    first, again = (mapper(record, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["sem_seg"], again["sem_seg"])


def test_colors_change_and_labels_do_not(record):
    plain, changed = (SemanticMapper(10, colors=c)(record, np.random.default_rng(1)) for c in (False, True))
    assert torch.equal(plain["sem_seg"], changed["sem_seg"])
    assert changed["image"].dtype == torch.uint8


def test_changes_of_color():
    image = torch.randint(30, 200, (3, 8, 8), dtype=torch.uint8)
    results = [jitter_colors(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(r.shape == image.shape and r.dtype == torch.uint8 for r in results)
    assert len({r.numpy().tobytes() for r in results}) > 30
    # each of four changes is left out half the time, so some pictures stay as they are
    many = [jitter_colors(image, np.random.default_rng(seed)) for seed in range(200)]
    assert 2 <= sum(torch.equal(r, image) for r in many) <= 30


@pytest.mark.parametrize(("size", "flip"), [(0, 0.5), (8, 1.5)])
def test_mappers_out_of_range_are_refused(size, flip):
    with pytest.raises(InputError, match="SemanticMapper"):
        SemanticMapper(size, flip)


def test_a_data_set_without_labels_is_refused():
    with pytest.raises(InputError, match="no labels"):
        SemanticMapper(8).check([{"file_name": "a.jpg"}])


def embed(classes):
    """A row a class that tells how many words it was asked for with."""
    return torch.tensor([[1.0, len(words) if not isinstance(words, str) else 1] for words in classes])


def test_vocabulary_with_and_without_synonyms(fresh_catalog, tmp_path):
    synonyms = [["bag", "purse"], ["bag", "sack"], ["sofa", "couch"]]
    register_semantic("toy", image_root=tmp_path, label_root=tmp_path, synonyms=synonyms, novel_classes=["sofa"])
    every, alone = (panoptic_vocabulary("toy", embed, synonyms=s) for s in (True, False))
    assert [list(words) for words in alone.classes] == [["bag, purse"], ["bag, sack"], ["sofa"]]
    assert every.names == alone.names and list(every.classes[2]) == ["sofa", "couch"]
    assert alone.is_base.tolist() == every.is_base.tolist() == [True, True, False]


def test_unseen_classes_are_those_that_training_does_not_name(fresh_catalog, tmp_path):
    for name, synonyms in (("train", [["couch", "sofa"], ["cat"]]), ("test", [["sofa"], ["dog"], ["puma", "cat"]])):
        register_semantic(name, image_root=tmp_path, label_root=tmp_path, synonyms=synonyms)
    assert unseen_classes("test", "train") == ["dog"]
    with pytest.raises(InputError, match="not registered"):
        unseen_classes("test", "other")
