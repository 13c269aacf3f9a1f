"""Scores that come in parts: gathered whole, or as the best class of each pixel."""

import pytest
import torch

from clipself_d2.regions.pixel_scores import AllScores, BestClass, new_result
from clipself_d2.semantic.zero_shot import ZeroShotSegmenter
from clipself_d2.vocabulary import Vocabulary
from tests.panoptic.color_tower import ColorTower

CPU = torch.device("cpu")


def test_parts_make_the_whole_and_its_best_class():
    scores = torch.randint(0, 5, (7, 9, 4)).float() - 2  # with ties
    whole, best = AllScores(7, (9, 4), CPU), BestClass((9, 4), CPU)
    for first, end in ((0, 3), (3, 4), (4, 7)):
        for top in (0, 2, 8):
            rows = slice(top, {0: 2, 2: 8, 8: 9}[top])
            for result in (whole, best):
                result.add(scores[first:end, rows].clone(), rows, first)
    assert torch.equal(whole.result()["sem_seg"], scores)
    found = best.result()
    assert torch.equal(found["labels"], scores.max(dim=0).indices.int())
    assert torch.equal(found["label_scores"], scores.amax(dim=0))


def test_which_result():
    assert isinstance(new_result(True, 7, (9, 4), CPU), BestClass)
    assert isinstance(new_result(False, 7, (9, 4), CPU), AllScores)


@pytest.mark.parametrize("options", [{}, {"background_threshold": 0.75}, {"scoring": "patch_weighted"}])
def test_zero_shot_labels_are_the_best_of_its_scores(options, monkeypatch):
    monkeypatch.setattr("clipself_d2.semantic.zero_shot._MAX_ELEMENTS", 3 * 50 * 7)  # 7 rows at a time
    words = Vocabulary(["red", "green", "blue"], torch.eye(3))
    inputs = [{"image": torch.randint(256, (3, 40, 50), dtype=torch.uint8)}]
    segmenter = ZeroShotSegmenter(ColorTower(), words, 64, temperature=10.0, **options).eval()
    [scores] = segmenter(inputs)
    segmenter.labels_only = True
    [labels] = segmenter(inputs)
    assert torch.equal(labels["labels"], scores["sem_seg"].argmax(dim=0).int()) and "sem_seg" not in labels
    assert torch.equal(labels["label_scores"], scores["sem_seg"].amax(dim=0))
    assert scores.keys() - {"sem_seg"} == labels.keys() - {"labels", "label_scores"}
    for name in scores.keys() - {"sem_seg"}:
        assert torch.equal(scores[name], labels[name])
