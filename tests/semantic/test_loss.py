"""Against torch's own cross-entropy on one-hot targets, and loops."""

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.errors import InputError
from clipself_d2.semantic.loss import class_targets, count_among, draw_classes, pixel_loss
from tests.semantic.tiny import sample, words


def test_loss_is_the_mean_over_labeled_pixels_and_classes():
    logits, targets = torch.randn(2, 4, 3, 3), torch.randint(-1, 4, (2, 6, 5))
    grown = F.interpolate(logits, (6, 5), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    known = targets >= 0
    one_hot = F.one_hot(targets[known], 4).float()
    expected = F.binary_cross_entropy_with_logits(grown[known], one_hot)
    assert torch.allclose(pixel_loss(logits, targets), expected, atol=1e-6)


def test_nothing_is_learned_where_nothing_is_known():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    targets = torch.full((1, 4, 4), -1)
    targets[0, 0, 0] = 1
    pixel_loss(logits, targets).backward()
    assert (logits.grad[0, :, 0, 0] != 0).all()
    logits.grad[0, :, 0, 0] = 0
    assert (logits.grad == 0).all()
    assert float(pixel_loss(logits.detach(), torch.full((1, 4, 4), -1))) == 0


def test_labels_are_counted_among_the_seen_classes():
    vocabulary = words(novel=["blue", "lawn"])
    x = sample(0)
    targets = class_targets(x, vocabulary)
    seen = ["red", "green", "pond", "sky"]
    for label, target in zip(x["sem_seg"].flatten().tolist(), targets.flatten().tolist(), strict=True):
        name = "" if label == 255 else vocabulary.names[label]
        assert target == (seen.index(name) if name in seen else -1)


def test_the_ignored_label_is_the_samples_own():
    vocabulary = words([str(k) for k in range(300)])
    labels = torch.tensor([[0, 255], [299, 65535]])
    x = {"image": torch.zeros(3, 2, 2), "sem_seg": labels, "ignore_label": 65535}
    assert class_targets(x, vocabulary).tolist() == [[0, 255], [299, -1]]
    del x["ignore_label"]
    with pytest.raises(InputError, match=r"has the label 65535, .* and 255 is ignored"):
        class_targets(x, vocabulary)


@pytest.mark.parametrize("label", [6, 254, -2, 300])
def test_a_label_that_is_no_class_is_refused(label):
    x = sample(0)
    x["sem_seg"][9, 9] = label
    with pytest.raises(InputError, match=rf"0\.png: has the label {label}, the vocabulary has 6 classes and 255"):
        class_targets(x, words())


def test_labels_must_be_there_and_fit():
    x = sample(0)
    with pytest.raises(InputError, match=r"0\.png: its labels are \(20, 19\).*\(20, 20\)"):
        class_targets({**x, "sem_seg": x["sem_seg"][:, 1:]}, words())
    del x["sem_seg"]
    with pytest.raises(InputError, match=r"0\.png: has no 'sem_seg'"):
        class_targets(x, words())


def test_the_classes_of_an_image_are_its_own_and_others():
    targets = torch.full((2, 4, 4), -1)
    targets[0, :2], targets[0, 2:], targets[1, 0, 0] = 7, 3, 5
    drawn = [draw_classes(targets, 9, 4) for _ in range(30)]
    for classes in drawn:
        assert classes.shape == (2, 4)
        assert {3, 7} <= set(classes[0].tolist()) and 5 in classes[1]
        assert all(len(set(row)) == 4 and row == sorted(row) for row in classes.tolist())
    assert {k for classes in drawn for k in classes[0].tolist()} == set(range(9))
    # more classes of its own than are drawn: some are lost, with their pixels
    few = draw_classes(targets, 9, 1)
    assert few[0].item() in (3, 7)
    places = count_among(targets, few, 9)
    assert torch.equal(places[0] == 0, targets[0] == few[0]) and (places[0] <= 0).all()


def test_places_are_those_of_a_loop():
    targets = torch.randint(-1, 6, (2, 5, 5))
    classes = torch.tensor([[0, 2, 5], [1, 3, 4]])
    places = count_among(targets, classes, 6)
    for b in range(2):
        listed = classes[b].tolist()
        for target, place in zip(targets[b].flatten().tolist(), places[b].flatten().tolist(), strict=True):
            assert place == (listed.index(target) if target in listed else -1)
