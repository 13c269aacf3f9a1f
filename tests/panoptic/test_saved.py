"""Saved masks: what is read is what was written, and what does not fit is said in one line."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clipself_d2.errors import InputError
from clipself_d2.panoptic import SavedMasks, save_predictions
from clipself_d2.panoptic.saved import FORMAT
from clipself_d2.vocabulary import Vocabulary

CLASSES = [("cat", "kitty"), ("dog",), ("grass", "lawn")]


def vocabulary(classes=CLASSES, **kwargs):
    return Vocabulary(classes, torch.eye(len(classes)), **kwargs)


def sample(height=24, width=40):
    return {"file_name": "photos/a.jpg", "image": torch.zeros(3, height, width, dtype=torch.uint8)}


def save(folder, masks, scores, *, classes=CLASSES, height=24, width=40, **kwargs):
    return save_predictions(folder, "elsewhere/a.png", masks, scores, classes, height, width, **kwargs)


def read(folder, *args, words=None, **kwargs):
    (predictions,) = SavedMasks(folder, *args, **kwargs)([sample()], words or vocabulary())
    return predictions.check(24, 40, len(words or vocabulary()))


def test_logits_come_back(tmp_path):
    masks, scores = torch.randn(5, 12, 20), torch.randn(5, 4)
    path = save(tmp_path, masks, scores, mask_iou=torch.linspace(0, 1, 5))
    assert path == tmp_path / "a.safetensors"
    found = read(tmp_path)
    torch.testing.assert_close(found.masks.float(), masks, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.log_scores, scores.log_softmax(1), atol=1e-5, rtol=1e-5)
    assert found.mask_iou.tolist() == [0, 0.25, 0.5, 0.75, 1]


@given(st.integers(0, 4), st.integers(0, 2**32 - 1), st.sampled_from([(24, 40), (6, 10), (12, 21)]))
def test_binary_masks_come_back_exactly(tmp_path_factory, count, seed, size):
    folder = tmp_path_factory.mktemp("masks")
    masks = torch.from_numpy(np.random.default_rng(seed).random((count, *size)) < 0.5)
    path = save(folder, masks, torch.zeros(count, 4))
    assert load_file(path)["masks"].numel() <= masks.numel() / 8 + count * size[0]
    found = read(folder)
    assert torch.equal(found.masks > 0, masks)
    assert found.mask_iou is None


def test_large_logits_are_reduced_and_padding_is_cut_off(tmp_path):
    padded = torch.full((1, 64, 64), -9.0)
    padded[:, :36, :30] = 9
    save(tmp_path, padded, torch.zeros(1, 4), content=(36 / 64, 60 / 64), longest=20)
    found = read(tmp_path).masks
    assert found.shape == (1, 12, 20)
    assert (found[:, :, :9] > 0).all()
    assert (found[:, :, 11:] < 0).all()


def test_the_smallest_probabilities_survive(tmp_path):
    save(tmp_path, torch.zeros(1, 12, 20), torch.tensor([[0.0, -150, -300, -10]]))
    torch.testing.assert_close(read(tmp_path).log_scores, torch.tensor([[0.0, -150, -300, -10]]), atol=1e-3, rtol=0)


def test_classes_are_found_by_any_synonym_in_any_order(tmp_path):
    save(tmp_path, torch.zeros(1, 12, 20), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log())
    words = vocabulary([("lawn",), ("pussy", "kitty"), ("dog", "hound")])
    found = read(tmp_path, words=words).log_scores.exp()
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.1, 0.2, 0.4]]))


def test_names_may_be_repeated_within_a_class(tmp_path):
    save(
        tmp_path, torch.zeros(1, 12, 20), torch.zeros(1, 4), classes=[["cat", "cat"], "dog", ("grass", "lawn", "grass")]
    )
    assert read(tmp_path).log_scores.exp().tolist() == [[0.25] * 4]


def test_synonyms_that_the_vocabulary_tells_apart_share_or_add_their_probability(tmp_path):
    save(tmp_path, torch.zeros(1, 12, 20), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log())
    words = vocabulary([("cat",), ("kitty",), ("dog", "grass")])
    found = read(tmp_path, words=words).log_scores.exp()
    torch.testing.assert_close(found, torch.tensor([[0.05, 0.05, 0.5, 0.4]]))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog", "lawn", "tree"], "lacks class 'tree'"),
        (["cat", "dog"], "has a class that the vocabulary lacks, 'grass'"),
    ],
)
def test_other_classes_need_a_text_classifier(tmp_path, classes, message):
    save(tmp_path, torch.zeros(1, 12, 20), torch.zeros(1, 4))
    with pytest.raises(InputError, match=message):
        read(tmp_path, words=vocabulary(classes))


def test_with_texts_a_lacking_class_gets_the_scores_of_its_likes(tmp_path):
    directions = {"cat": [1.0, 0, 0], "kitty": [1, 0, 0], "dog": [0, 1, 0], "grass": [0, 0, 1], "lawn": [0, 0, 1]}
    directions["meadow"] = [0, 0.1, 1]

    def text(names):
        return torch.nn.functional.normalize(torch.tensor([directions[name] for name in names]), dim=1)

    save(tmp_path, torch.zeros(2, 12, 20), torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1]]).log())
    words = Vocabulary(["cat", "dog", "meadow"], text(["cat", "dog", "meadow"]))
    found = read(tmp_path, text, words=words).log_scores.exp()
    torch.testing.assert_close(found[:, [0, 1, 2, 3]], torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1]]))


def test_files_of_other_classes_may_lie_side_by_side(tmp_path):
    generator = SavedMasks(tmp_path)
    for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2]):
        scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        save(tmp_path, torch.zeros(1, 12, 20), scores[:, [*order, 3]].log(), classes=[CLASSES[i] for i in order])
        torch.testing.assert_close(generator([sample()], vocabulary())[0].log_scores.exp(), scores)


def test_an_image_without_masks(tmp_path):
    save(tmp_path, torch.zeros(0, 24, 40, dtype=torch.bool), torch.zeros(0, 4))
    assert len(read(tmp_path)) == 0


def test_a_folder_or_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        SavedMasks(tmp_path / "absent")
    with pytest.raises(InputError, match=r"a\.safetensors: is missing"):
        read(tmp_path)


def test_masks_of_another_image(tmp_path):
    save(tmp_path, torch.zeros(1, 20, 12), torch.zeros(1, 4), height=40, width=24)
    with pytest.raises(InputError, match="24 x 40 pixels"):
        read(tmp_path)


def write(folder, metadata=(), **tensors):
    metadata = {"format": FORMAT, "classes": json.dumps(CLASSES), "height": "24", "width": "40", **dict(metadata)}
    content = {"masks": torch.zeros(1, 12, 20), "log_scores": torch.full((1, 4), 0.25).log(), **tensors}
    save_file({k: v for k, v in content.items() if v is not None}, folder / "a.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"format": "pt"}, {}, "format"),
        ({"classes": "[1]"}, {}, "garbles"),
        ({"classes": '["cat", "cat"]'}, {}, "garbles"),
        ({"height": "tall"}, {}, "garbles"),
        ({}, {"masks": None}, "lacks or garbles 'masks'"),
        ({}, {"masks": torch.zeros(1, 12, 20, dtype=torch.int32)}, "float logits"),
        ({}, {"masks": torch.zeros(1, 12, 3, dtype=torch.uint8)}, "mask_width"),
        ({"mask_width": "30"}, {"masks": torch.zeros(1, 12, 3, dtype=torch.uint8)}, "mask_width"),
        ({}, {"masks": torch.zeros(1, 20, 12)}, "aspect"),
        ({}, {"log_scores": torch.zeros(1, 3)}, "void"),
        ({}, {"log_scores": torch.full((1, 4), 0.5)}, "log probabilities"),
        ({}, {"log_scores": torch.full((1, 4), float("nan"))}, "log probabilities"),
        ({}, {"log_scores": torch.zeros(1, 4, dtype=torch.long)}, "log probabilities"),
        ({}, {"mask_iou": torch.zeros(2)}, "mask_iou"),
    ],
)
def test_damaged_files_are_refused(tmp_path, metadata, tensors, message):
    write(tmp_path, metadata, **tensors)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path)
    assert str(tmp_path / "a.safetensors") in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    torch.save({"masks": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="safetensors"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("masks", "scores", "message"),
    [
        (torch.zeros(2, 20, 12), torch.zeros(2, 4), "aspect"),
        (torch.zeros(2, 12, 20), torch.zeros(2, 3), "log_scores"),
        (torch.zeros(2, 12, 20, dtype=torch.long), torch.zeros(2, 4), "float logits"),
    ],
)
def test_predictions_that_do_not_fit_are_not_saved(tmp_path, masks, scores, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, masks, scores)
    with pytest.raises(ValueError, match=r"mask_iou is .* for 2 masks"):
        save(tmp_path, torch.zeros(2, 12, 20), torch.zeros(2, 4), mask_iou=torch.ones(3))
    with pytest.raises(ValueError, match="a class has no name, or the names of another class"):
        save(tmp_path, torch.zeros(2, 12, 20), torch.zeros(2, 4), classes=[["cat"], ["dog"], ["cat"]])
    assert not list(tmp_path.iterdir())
