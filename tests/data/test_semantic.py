"""Crops of semantic labels, COCO-Stuff's pixel maps, and the vocabulary of a semantic data set."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipself_d2.data  # noqa: F401  (registers the data sets)
from clipself_d2.data import register_semantic
from clipself_d2.data.coco_stuff import CLASS_IDS, prepare_coco_stuff, stuff_labels
from clipself_d2.data.semantic import SemanticMapper, jitter_colors
from clipself_d2.data.vocabulary import panoptic_vocabulary, unseen_classes
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import label_set


@pytest.fixture
def record(tmp_path):
    """A photograph whose red level is its label: 20 x 30, four quarters."""
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


def test_pixel_maps_become_labels():
    """COCO's ids less one: person is 0, toothbrush 89, banner 91, wood 181; 11 is unused (street sign)."""
    labels = stuff_labels(torch.tensor([[0, 89, 91], [181, 255, 12]]), "a.png")
    assert labels.tolist() == [[0, 79, 80], [170, 255, 11]]
    assert len(CLASS_IDS) == 171 == len(label_set("coco_stuff_171"))
    names = [synonyms[0] for synonyms in label_set("coco_stuff_171")]
    assert (names[0], names[79], names[80], names[170]) == ("person", "toothbrush", "banner", "wood")
    assert names[CLASS_IDS.index(172)] == "concrete wall"
    things, stuff = label_set("coco_panoptic")[:80], {synonyms[0] for synonyms in label_set("coco_panoptic")[80:]}
    assert label_set("coco_stuff_171")[:80] == things and stuff <= set(names[80:])


@pytest.mark.parametrize("value", [11, 90, 182, 254, 300])
def test_an_id_that_is_no_class_is_refused(value):
    with pytest.raises(InputError, match=rf"b\.png: holds {value}, which is no class of COCO-Stuff"):
        stuff_labels(torch.tensor([[0, value]]), "b.png")


def test_coco_stuff_is_prepared_and_read(tmp_path):
    for folder in ("stuffthingmaps/val2017", "val2017"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.array([[0, 181], [255, 91]], dtype=np.uint8)).save(tmp_path / "stuffthingmaps/val2017/1.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "val2017/1.jpg")
    tool = Path(__file__).parents[2] / "tools/prepare_coco_stuff.py"
    main = runpy.run_path(str(tool))["main"]
    (tmp_path / "coco").symlink_to(tmp_path)
    assert main(["--root", str(tmp_path), "--splits", "val"]) == 0
    written = Image.open(tmp_path / "stuffthingmaps_detectron2/val2017/1.png")
    assert np.asarray(written).tolist() == [[0, 170], [255, 80]]
    with pytest.raises(InputError, match="train2017"):
        prepare_coco_stuff(tmp_path, "train")
    assert main(["--root", str(tmp_path)]) == 2


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
