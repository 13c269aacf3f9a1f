import math

import pytest
import torch
from torch import nn

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import Vocabulary, save_text_embeddings

CLASSES = [("cat", "kitty"), "dog", "red star"]


def rows(count, length=8):
    return torch.randn(count, length)


def cosine(feature, row):
    return (feature @ row / feature.norm() / row.norm()).item()


# ---- classes ----


def test_what_it_holds():
    embeddings, background = rows(3) * 5, rows(1)[0] * 3
    vocabulary = Vocabulary(CLASSES, embeddings, novel=["dog"], background=background)
    assert vocabulary.classes == [("cat", "kitty"), ("dog",), ("red star",)]
    assert vocabulary.names == ["cat", "dog", "red star"] and vocabulary.is_base.tolist() == [True, False, True]
    assert len(vocabulary) == len(vocabulary) == 3 and vocabulary.embed_dim == 8
    torch.testing.assert_close(vocabulary.text_embeddings, embeddings / embeddings.norm(dim=1, keepdim=True))
    torch.testing.assert_close(vocabulary.background, background / background.norm())
    assert vocabulary.class_ids.tolist() == [0, 1, 2]


def test_it_moves_with_a_module_and_is_in_no_checkpoint():
    module = nn.Module()
    module.words = Vocabulary(CLASSES, rows(3), background=rows(1)[0])
    assert not module.state_dict() and not list(module.parameters())
    module.to("meta")
    assert {buffer.device.type for buffer in module.words.buffers()} == {"meta"} and len(list(module.buffers())) == 4


def test_buffers_are_where_the_embeddings_are():
    vocabulary = Vocabulary(CLASSES, rows(3).to("meta"), background=rows(1)[0].to("meta"))
    assert {buffer.device.type for buffer in vocabulary.buffers()} == {"meta"}


def test_embeddings_are_taken_without_their_graph():
    embeddings = rows(3).requires_grad_()
    assert not Vocabulary(CLASSES, embeddings).text_embeddings.requires_grad
    assert Vocabulary(CLASSES, embeddings.detach().half()).text_embeddings.dtype == torch.float32


# ---- cosines ----


def test_cosines_with_background_last():
    embeddings, background, features = rows(3), rows(1)[0], nn.functional.normalize(rows(5), dim=1)
    expected = [[cosine(f, e) for e in [*embeddings, background]] for f in features]
    with_background = Vocabulary(CLASSES, embeddings, background=background).cosines(features)
    torch.testing.assert_close(with_background, torch.tensor(expected))
    torch.testing.assert_close(Vocabulary(CLASSES, embeddings).cosines(features), with_background[:, :3])


def test_another_background_replaces_its_own():
    features, other = nn.functional.normalize(rows(5), dim=1), nn.functional.normalize(rows(1), dim=1)[0]
    for own in (None, rows(1)[0]):
        cosines = Vocabulary(CLASSES, rows(3), background=own).cosines(features, other)
        torch.testing.assert_close(cosines[:, 3], features @ other)


def test_the_best_synonym_counts():
    embeddings, features = rows(4), nn.functional.normalize(rows(6), dim=1)
    vocabulary = Vocabulary(CLASSES, embeddings, background=rows(1)[0])
    assert vocabulary.class_ids.tolist() == [0, 0, 1, 2] and len(vocabulary) == 3
    cosines = vocabulary.cosines(features)
    assert cosines.shape == (6, 4)
    for f, row in zip(features, cosines.tolist(), strict=True):
        wanted = [max(cosine(f, embeddings[0]), cosine(f, embeddings[1])), *(cosine(f, e) for e in embeddings[2:])]
        assert row[:3] == pytest.approx(wanted, abs=1e-5)


def test_a_zero_feature_gives_zeros():
    assert not Vocabulary(CLASSES, rows(3), background=rows(1)[0]).cosines(torch.zeros(2, 8)).any()


def test_no_features():
    assert Vocabulary(CLASSES, rows(4)).cosines(torch.zeros(0, 8)).shape == (0, 3)


def test_autocast_does_not_coarsen():
    vocabulary, features = Vocabulary(CLASSES, rows(3), background=rows(1)[0]), nn.functional.normalize(rows(5), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        cosines = vocabulary.cosines(features)
    assert cosines.dtype == torch.float32 and torch.equal(cosines, vocabulary.cosines(features))


# ---- the seen classes alone ----


@pytest.mark.parametrize("count", [3, 4])
def test_only_seen(count):
    vocabulary = Vocabulary(CLASSES, rows(count), novel=["dog"], background=rows(1)[0])
    base, features = vocabulary.only_base(), nn.functional.normalize(rows(5), dim=1)
    assert base.classes == [("cat", "kitty"), ("red star",)] and base.is_base.tolist() == [True, True]
    torch.testing.assert_close(base.cosines(features), vocabulary.cosines(features)[:, [0, 2, 3]])
    with pytest.raises(InputError, match="none of its classes is a base class"):
        Vocabulary(["dog"], rows(1), novel=["dog"]).only_base()


# ---- bad input ----


@pytest.mark.parametrize(
    ("classes", "novel", "message"),
    [
        ([], [], "at least one class name"),
        ("cat", [], "must be a list"),
        (["cat", ""], [], "class 1 of the vocabulary is ''"),
        (["cat", 3], [], "class 1 of the vocabulary is 3"),
        (["cat", "dog", "cat"], [], "'cat' is given twice"),
        ([("cat", "kitty"), ("cat", "tom")], [], "class 'cat' is given twice"),
        # a class is seen unless it is listed as novel: it is both only where it is given twice
        ([("cat", "kitty"), "cat"], ["cat"], "class 'cat' is given twice"),
        (["cat", "dog"], ["dog", "dog"], "novel class 'dog' is given twice"),
        (["cat", "dog"], ["horse"], "novel class 'horse' is not among the 2 classes$"),
        (CLASSES, ["kitty"], "novel class 'kitty' is not among the 3 classes, only a synonym of 'cat': give that name"),
    ],
)
def test_classes_that_cannot_be(classes, novel, message):
    with pytest.raises(InputError, match=message) as caught:
        Vocabulary(classes, rows(len(classes)), novel=novel)
    assert "\n" not in str(caught.value)


def test_classes_may_share_a_synonym():
    """As those of ADE20K do, whether seen or not."""
    vocabulary = Vocabulary([("door", "gate"), ("gate", "portal")], rows(4), novel=["gate"])
    assert vocabulary.names == ["door", "gate"] and vocabulary.is_base.tolist() == [True, False]


@pytest.mark.parametrize("shape", [(2, 8), (5, 8), (3, 8, 1), (3,)])
def test_embeddings_of_another_shape(shape):
    with pytest.raises(InputError, match="for 3 classes of 4 synonyms: give one per class, or one per synonym"):
        Vocabulary(CLASSES, torch.randn(shape))


def test_a_background_of_another_length():
    with pytest.raises(InputError, match=r"background's embedding is \(7,\), the classes' have length 8"):
        Vocabulary(CLASSES, rows(3), background=rows(1, 7)[0])


# ---- building ----


class FakeText:
    """Notes what it is asked for."""

    def __init__(self, one_row_a_synonym=False):
        self.one_row_a_synonym = one_row_a_synonym
        self.asked = []

    def __call__(self, classes):
        self.asked.append([tuple(c) for c in classes])
        count = sum(map(len, classes)) if self.one_row_a_synonym else len(classes)
        return torch.eye(count, 8)


@pytest.mark.parametrize("one_row_a_synonym", [False, True])
def test_from_a_text_tower(one_row_a_synonym):
    text = FakeText(one_row_a_synonym)
    vocabulary = Vocabulary.from_classes(CLASSES, text, novel=["dog"])
    assert text.asked == [[("cat", "kitty"), ("dog",), ("red star",), ("background",)]]
    count = 4 if one_row_a_synonym else 3
    assert torch.equal(vocabulary.text_embeddings, torch.eye(count, 8))
    assert vocabulary.background.nonzero().item() == count
    assert vocabulary.is_base.tolist() == [True, False, True]


def test_the_word_for_the_background():
    text = FakeText()
    assert Vocabulary.from_classes(["cat"], text, background="nothing").background.nonzero().item() == 1
    assert Vocabulary.from_classes(["cat"], text, background=None).background is None
    assert text.asked == [[("cat",), ("nothing",)], [("cat",)]]
    for classes in (["cat", "background"], [("wall", "background")]):
        with pytest.raises(InputError, match="'background' is the background's word and cannot be a class too"):
            Vocabulary.from_classes(classes, text)


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_from_a_file(tmp_path, suffix):
    embeddings, path = rows(4), tmp_path / f"rows{suffix}"
    save_text_embeddings(embeddings, ["cat", "dog", "red star", "background"], path)
    vocabulary = Vocabulary.from_classes(CLASSES, path, embed_dim=8)
    torch.testing.assert_close(vocabulary.text_embeddings, nn.functional.normalize(embeddings[:3], dim=1))
    torch.testing.assert_close(vocabulary.background, nn.functional.normalize(embeddings[3], dim=0))
    with pytest.raises(InputError, match="have length 8, the image tower's 512"):
        Vocabulary.from_classes(CLASSES, path, embed_dim=512)
    with pytest.raises(InputError, match="say embed_dim"):
        Vocabulary.from_classes(CLASSES, path)


def test_a_file_without_a_class(tmp_path):
    save_text_embeddings(rows(3), ["cat", "dog", "background"], tmp_path / "rows.pt")
    with pytest.raises(InputError, match="1 of 4 classes are absent, first 'red star'"):
        Vocabulary.from_classes(CLASSES, tmp_path / "rows.pt", embed_dim=8)


def test_the_published_embeddings(assets):
    """OV-COCO's 65 classes out of COCO's 80, by name, with the background's own row."""
    path = assets / "text_embeddings/CLIPSelf__coco_with_background_evaclip_vitb_16.pt"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    vocabulary = Vocabulary.from_classes(["person", "cat", "umbrella"], path, novel=["cat", "umbrella"], embed_dim=512)
    table = torch.load(path, weights_only=True)
    assert vocabulary.text_embeddings.shape == (3, 512) and vocabulary.is_base.tolist() == [True, False, False]
    torch.testing.assert_close(vocabulary.text_embeddings[1], table["cat"].flatten())
    torch.testing.assert_close(vocabulary.background, table["background"].flatten())


# ---- probabilities ----


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_log_probabilities_are_a_softmax_of_cosines(shape):
    embeddings, background = rows(4), rows(1)[0]
    vocabulary = Vocabulary(CLASSES, embeddings, background=background)
    features = nn.functional.normalize(torch.randn(*shape, 8), dim=-1)
    found = vocabulary.log_probabilities(features, 20.0)
    assert found.shape == (*shape, 4)
    for feature, ours in zip(features.reshape(-1, 8), found.reshape(-1, 4), strict=True):
        cosines = [cosine(feature, row) for row in (*embeddings, background)]
        powers = [math.exp(20 * c) for c in (max(cosines[:2]), *cosines[2:])]
        torch.testing.assert_close(ours.exp(), torch.tensor(powers) / sum(powers), rtol=1e-4, atol=1e-6)
