"""Which noun a proposal gets, against one crop at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.clip import build_image_tower
from clipself_d2.distillation.pseudo_pairs import best_nouns, match_pairs
from clipself_d2.regions import RegionEmbedder, enlarge
from clipself_d2.regions.crops import crop_and_resize
from tests.distillation.tiny import write_model


@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 99))
def test_the_best_of_the_candidates(crops, count, seed):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(crops, 8, generator=generator), dim=1)
    nouns = F.normalize(torch.randn(12, 8, generator=generator), dim=1)
    candidates = torch.randperm(12, generator=generator)[:count].tolist()
    scores, rows = best_nouns(features, nouns, candidates)
    for feature, score, row in zip(features, scores, rows, strict=True):
        cosines = {k: float(feature @ nouns[k]) for k in candidates}
        assert row.item() in candidates
        assert score.item() == pytest.approx(max(cosines.values()), abs=1e-6)
        assert cosines[row.item()] == pytest.approx(max(cosines.values()), abs=1e-6)


def test_proposals_are_named_one_by_one(tmp_path):
    torch.manual_seed(0)
    tower = build_image_tower(write_model(tmp_path), None).eval()
    rng = np.random.default_rng(0)
    samples = [
        {
            "image_id": i,
            "image": torch.from_numpy(rng.integers(0, 256, (3, 40, 60), dtype=np.uint8)),
            "height": 40,
            "width": 60,
        }
        for i in range(3)
    ]
    proposals = {0: [[5, 5, 30, 30], [0, 0, 60, 40], [20, 8, 90, 70]], 1: [[-9, -9, 12, 9]], 2: [[70, 50, 80, 60]]}
    proposals = {i: np.array(boxes, np.float32) for i, boxes in proposals.items()}
    nouns = F.normalize(torch.randn(5, 16), dim=1)
    candidates = {0: [4, 1, 2], 1: [3], 2: [0, 1]}
    embedder = RegionEmbedder(tower, 64, 32)
    found = match_pairs(embedder, samples, proposals, candidates, nouns)
    kept = {0: [[5, 5, 30, 30], [0, 0, 60, 40], [20, 8, 60, 40]], 1: [[0, 0, 12, 9]], 2: []}
    for image, (sample, pairs) in enumerate(zip(samples, found, strict=True)):
        assert pairs.boxes.tolist() == kept[image]
        for box, noun, score in zip(pairs.boxes, pairs.nouns, pairs.scores, strict=True):
            pixels = crop_and_resize(sample["image"], enlarge(box[None], 1.5, 40, 60), 32)
            with torch.no_grad():
                crop = F.normalize(tower.image_embeddings(tower.normalize(pixels))[0], dim=0)
            cosines = {k: float(crop @ nouns[k]) for k in candidates[image]}
            assert noun.item() == max(cosines, key=cosines.get)
            assert score.item() == pytest.approx(max(cosines.values()), abs=1e-5)

    for noun, score, annotation in zip(found[0].nouns, found[0].scores, found[0].to_json(), strict=True):
        assert annotation["category_id"] == noun + 1 and annotation["score"] == pytest.approx(float(score), abs=1e-4)
    assert [annotation["bbox"] for annotation in found[0].to_json()] == [
        [5, 5, 25, 25],
        [0, 0, 60, 40],
        [20, 8, 40, 32],
    ]
    scores = found[0].scores
    low, middle, _ = scores.sort().values.tolist()
    [fewer] = match_pairs(embedder, samples[:1], proposals, candidates, nouns, threshold=(low + middle) / 2)
    torch.testing.assert_close(fewer.scores, scores[scores > low])
    assert len(fewer.boxes) == len(fewer.nouns) == 2
