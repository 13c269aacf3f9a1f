import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

import clipself_d2.data  # noqa: F401 - registers the data sets
from clipself_d2.data.vocabulary import dataset_vocabulary
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import save_text_embeddings


def embed(classes):
    return torch.eye(len(classes), 8)


@pytest.fixture
def register():
    names = []

    def add(name, load=list, **metadata):
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_novel_classes_are_not_seen(register):
    name = register("toys", thing_classes=["ball", "kite", "drum"], novel_classes=["kite"])
    vocabulary = dataset_vocabulary(name, embed)
    assert vocabulary.names == ["ball", "kite", "drum"] and vocabulary.is_base.tolist() == [True, False, True]
    assert vocabulary.background.nonzero().item() == 3
    assert dataset_vocabulary(name, embed, background=None).background is None


def test_without_novel_classes_all_are_seen(register):
    assert dataset_vocabulary(register("toys", thing_classes=["ball", "kite"]), embed).is_base.tolist() == [True, True]


def test_synonyms(register):
    name = register("toys", thing_classes=[["ball", "sphere"], "kite"], novel_classes=["ball"])
    vocabulary = dataset_vocabulary(name, embed)
    assert vocabulary.classes == [("ball", "sphere"), ("kite",)] and vocabulary.is_base.tolist() == [False, True]


def test_classes_that_only_the_annotations_know(register):
    """Data sets whose metadata is filled in when they are first read."""

    def load():
        MetadataCatalog.get("late").set(thing_classes=["ball", "kite"])
        return [{}]

    assert dataset_vocabulary(register("late", load), embed).names == ["ball", "kite"]


def test_classes_of_the_metadata_are_not_read_again(register):
    def load():
        raise AssertionError("no annotations are needed")

    assert dataset_vocabulary(register("known", load, thing_classes=["ball"]), embed).names == ["ball"]


def test_a_file_of_embeddings(register, tmp_path):
    name = register("toys", thing_classes=["ball", "kite"])
    save_text_embeddings(torch.eye(3, 8), ["kite", "ball", "background"], tmp_path / "rows.pt")
    vocabulary = dataset_vocabulary(name, tmp_path / "rows.pt", embed_dim=8)
    assert vocabulary.text_embeddings.argmax(dim=1).tolist() == [1, 0] and vocabulary.background.argmax() == 2
    with pytest.raises(InputError, match="have length 8, the image tower's 16"):
        dataset_vocabulary(name, tmp_path / "rows.pt", embed_dim=16)


def test_data_sets_that_will_not_do(register):
    with pytest.raises(InputError, match=r"data set 'no such' is not registered: see datasets/README\.md"):
        dataset_vocabulary("no such", embed)
    with pytest.raises(InputError, match=r"data set 'plain' has no thing_classes"):
        dataset_vocabulary(register("plain", lambda: [{}]), embed)
    name = register("wrong", thing_classes=["ball"], novel_classes=["kite"])
    with pytest.raises(InputError, match="novel class 'kite' is not among the 1 classes"):
        dataset_vocabulary(name, embed)


def test_ov_coco_has_48_base_and_17_novel_classes():
    """The released lists; the data set itself is not read."""
    vocabulary = dataset_vocabulary("ov_coco_val", lambda classes: torch.eye(len(classes), 80))
    assert (len(vocabulary), int(vocabulary.is_base.sum())) == (65, 48)
    novel = {name for name, seen in zip(vocabulary.names, vocabulary.is_base.tolist(), strict=True) if not seen}
    assert novel == {
        "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup",
        "knife", "cake", "couch", "keyboard", "sink", "scissors",
    }  # fmt: skip


def test_lvis_is_asked_for_by_the_names_of_its_file(assets):
    rows = assets / "text_embeddings/CLIPSelf__lvis_with_background_evaclip_vitb_16.pt"
    for name in ("ov_lvis_train", "lvis_v1_val"):
        vocabulary = dataset_vocabulary(name, rows, embed_dim=512)
        published = torch.load(rows, weights_only=True)
        assert vocabulary.names == list(published)[:-1] and "bull" in vocabulary.names
        assert torch.allclose(vocabulary.text_embeddings[161], published["bull"].float(), atol=1e-6)
        assert (~vocabulary.is_base).sum() == 337
        assert torch.allclose(vocabulary.background, published["background"].float(), atol=1e-6)
