"""Against scikit-learn, and against loops over all pairs of patches."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from clipself_d2.clip import build_image_tower
from clipself_d2.errors import InputError
from clipself_d2.evaluation import SemanticCoherenceEvaluator
from clipself_d2.evaluation.semantic_coherence import (
    SimilarityHistogram,
    labeled_cells,
    sample_per_group,
    tower_features,
)
from clipself_d2.miniature import MODEL
from clipself_d2.regions import letterbox
from tests.second_device import SecondDevice


def histogram(cosines, together):
    result = SimilarityHistogram()
    result.add(torch.as_tensor(cosines), torch.as_tensor(together))
    return result


def sample(number, grid=4, classes=(3, 5, 3), crowds=(), panoptic=True, seed=0):
    """An image of grid x grid cells of 8 pixels, each wholly of a random segment."""
    rows = torch.randint(len(classes), (grid, grid), generator=torch.Generator().manual_seed(100 * seed + number))
    masks = (rows == torch.arange(len(classes))[:, None, None]).repeat_interleave(8, 1).repeat_interleave(8, 2)
    result = {
        "image_id": number,
        "masks": masks,
        "classes": torch.tensor(classes),
        "iscrowd": torch.tensor([k in crowds for k in range(len(classes))]),
        "rows": rows,
    }
    return {**result, "pan_seg_file_name": "a.png"} if panoptic else result


def features(number, grid=4, channels=6):
    return torch.randn(channels, grid, grid, generator=torch.Generator().manual_seed(number))


# ---- the curve ----


@given(
    pairs=st.lists(st.tuples(st.integers(-8, 7), st.booleans()), min_size=2).filter(
        lambda pairs: len({together for _, together in pairs}) == 2
    )
)
def test_area_and_curve_with_ties(pairs):
    cosines, together = zip(*((c / 8 + 0.01, t) for c, t in pairs), strict=True)
    found = histogram(cosines, together)
    assert found.auc() == pytest.approx(roc_auc_score(together, cosines), abs=1e-9)
    wins = [
        (a > b) + (a == b) / 2
        for a, ta in zip(*(cosines, together), strict=True)
        if ta
        for b, tb in zip(cosines, together, strict=True)
        if not tb
    ]
    assert found.auc() == pytest.approx(sum(wins) / len(wins), abs=1e-9)
    false, true = found.roc()
    for x, y, _ in zip(*roc_curve(together, cosines), strict=True):
        assert np.hypot(false - x, true - y).min() < 1e-9


def test_area_of_many_pairs_that_lie_close():
    generator = torch.Generator().manual_seed(0)
    together = torch.rand(20000, generator=generator) < 0.1
    cosines = 0.9 + 0.01 * torch.randn(20000, generator=generator) + 0.01 * together
    assert histogram(cosines, together).auc() == pytest.approx(roc_auc_score(together, cosines), abs=1e-4)


def test_pairs_come_in_parts():
    cosines, together = torch.rand(100) * 2 - 1, torch.rand(100) < 0.5
    parts = histogram(cosines[:30], together[:30])
    parts.add(cosines[30:].view(7, 10), together[30:].view(7, 10))
    assert torch.equal(parts.counts, histogram(cosines, together).counts)
    assert parts.counts.sum(dim=1).tolist() == [int((~together).sum()), int(together.sum())]


def test_extremes_and_what_is_not_finite():
    assert histogram([1.0, -1.0], [True, False]).auc() == 1
    assert histogram([-1.0, 1.0], [True, False]).auc() == 0
    assert histogram([math.nan, -1.0], [True, False]).auc() == 0.5
    assert math.isnan(histogram([0.5], [True]).auc())


# ---- which patches ----


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 20), (11, 29)])
def test_labeled_cells_by_loops(height, width):
    """Every pixel counts in the letterboxed square of side `longest`, whose map has 4 x 4 cells."""
    rows = torch.randint(3, (height // 4 + 1, width // 4 + 1)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    rows = rows[:height, :width]
    masks = rows == torch.arange(2)[:, None, None]  # the third is unlabeled
    cells, segments = labeled_cells(masks, 4)
    found = dict(zip(cells.tolist(), segments.tolist(), strict=True))
    side = max(height, width) / 4
    for cell in range(16):
        top, left = cell // 4 * side, cell % 4 * side
        share = [0.0, 0.0]
        for y, x in itertools.product(range(height), range(width)):
            covered = max(0, min(y + 1, top + side) - max(y, top)) * max(0, min(x + 1, left + side) - max(x, left))
            if rows[y, x] < 2:
                share[rows[y, x]] += covered / side**2
        if max(share) > 0.5 + 1e-6:
            assert found[cell] == share.index(max(share))
        elif max(share) < 0.5 - 1e-6:
            assert cell not in found


def test_no_segment_no_cell():
    assert [len(x) for x in labeled_cells(torch.zeros(0, 8, 8, dtype=torch.bool), 4)] == [0, 0]


@given(groups=st.lists(st.integers(0, 5), max_size=40), limit=st.integers(1, 8), seed=st.integers(0, 9))
def test_draws_per_group(groups, limit, seed):
    groups = np.array(groups, dtype=np.int64)
    drawn = sample_per_group(groups, limit, np.random.default_rng(seed))
    assert list(drawn) == sorted(set(drawn))
    for group in set(groups.tolist()):
        assert (groups[drawn] == group).sum() == min(limit, (groups == group).sum())


def test_draws_are_fair():
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(sample_per_group(np.zeros(8, int), 2, rng), minlength=8) for _ in range(2000))
    assert abs(counts - 500).max() < 80


# ---- the evaluator ----


def test_all_pairs_by_loops():
    samples = [sample(0), sample(1), sample(2, classes=(5, 7))]
    maps = [features(i) for i in range(3)]
    evaluator = SemanticCoherenceEvaluator("toys", per_segment=100, across=100)
    evaluator.process(samples[:2], [{"f": m} for m in maps[:2]])
    evaluator.process(samples[2:], [{"f": maps[2]}])
    found = evaluator.evaluate()

    patches = []
    for number, (record, map_) in enumerate(zip(samples, maps, strict=True)):
        for y, x in itertools.product(range(4), range(4)):
            row = int(record["rows"][y, x])
            patches.append((number, row, int(record["classes"][row]), map_[:, y, x]))
    pairs = {"object": [], "class": [], "class_across": []}
    for a, b in itertools.combinations(patches, 2):
        cosine = float(F.cosine_similarity(a[3], b[3], dim=0))
        if a[0] == b[0]:
            pairs["object"].append((cosine, a[1] == b[1]))
            pairs["class"].append((cosine, a[2] == b[2]))
        else:
            pairs["class_across"].append((cosine, a[2] == b[2]))
    expected = {name: 100 * roc_auc_score([t for _, t in of], [c for c, _ in of]) for name, of in pairs.items()}
    assert found == {"f": pytest.approx(expected, abs=0.02)}
    for name, of in pairs.items():
        assert int(evaluator.histograms["f"][name].counts.sum()) == len(of)


def test_perfect_and_blind_features():
    samples = [sample(i, classes=(1, 2, 3)) for i in range(4)]
    perfect = [F.one_hot(s["rows"], 3).permute(2, 0, 1).float() for s in samples]
    evaluator = SemanticCoherenceEvaluator("toys")
    evaluator.process(samples, [{"perfect": p, "blind": torch.ones(3, 4, 4)} for p in perfect])
    assert evaluator.evaluate() == {
        "perfect": dict.fromkeys(("object", "class", "class_across"), 100.0),
        "blind": dict.fromkeys(("object", "class", "class_across"), 50.0),
    }


def test_crowds_and_semantic_labels():
    evaluator = SemanticCoherenceEvaluator("toys", per_segment=100)
    evaluator.process([sample(0, crowds=(2,))], [{"f": features(0)}])
    kept = int((sample(0)["rows"] != 2).sum())
    assert int(evaluator.histograms["f"]["class"].counts.sum()) == kept * (kept - 1) // 2
    evaluator.reset()
    evaluator.process([sample(0, panoptic=False), sample(1, panoptic=False)], [{"f": features(0)}, {"f": features(1)}])
    assert set(evaluator.evaluate()["f"]) == {"class", "class_across"}


def test_the_same_patches_in_any_order_for_any_features():
    def counts(numbers, kinds):
        evaluator = SemanticCoherenceEvaluator("toys", per_segment=2, across=3)
        evaluator.process([sample(i) for i in numbers], [{k: features(i) for k in kinds} for i in numbers])
        evaluator.evaluate()
        return {k: torch.stack([h.counts for h in of.values()]) for k, of in evaluator.histograms.items()}

    once, other = counts([0, 1, 2], ["a", "b"]), counts([2, 0, 1], ["a"])
    assert torch.equal(once["a"], once["b"]) and torch.equal(once["a"], other["a"])
    assert int(once["a"][2].sum()) == 3 * 3 * 3  # three patches of each of two images, for three pairs of images


def test_maps_of_several_sizes():
    evaluator = SemanticCoherenceEvaluator("toys", per_segment=100)
    evaluator.process([sample(0), sample(1)], [{"coarse": features(i), "fine": features(i, 8)} for i in range(2)])
    assert int(evaluator.histograms["coarse"]["class"].counts.sum()) == 2 * 16 * 15 // 2
    assert int(evaluator.histograms["fine"]["class"].counts.sum()) == 2 * 64 * 63 // 2


def test_wrong_values_and_nothing_to_compare():
    with pytest.raises(InputError, match="per_segment=1"):
        SemanticCoherenceEvaluator("toys", per_segment=1)
    evaluator = SemanticCoherenceEvaluator("toys")
    with pytest.raises(InputError, match="'toys' gave no patches"):
        evaluator.evaluate()
    blank = sample(0, classes=(1,))
    blank["masks"] = torch.zeros_like(blank["masks"])
    evaluator.process([blank], [{"f": features(0)}])
    with pytest.raises(InputError, match="'toys' gave no patches"):
        evaluator.evaluate()


def test_features_on_a_second_device():
    tower = build_image_tower(MODEL, None).eval()
    evaluator = SemanticCoherenceEvaluator("toys")
    with SecondDevice():
        evaluator.process(
            [sample(i, 8) for i in range(2)],
            tower_features(
                {"a": tower.to("cuda")}, [{"image": torch.randint(256, (3, 64, 64), dtype=torch.uint8)}] * 2, 64
            ),
        )
        assert set(evaluator.evaluate()["a, no_attn"]) == {"object", "class", "class_across"}


def test_features_of_towers():
    towers = {name: build_image_tower(MODEL, None).eval() for name in ("a", "b")}
    images = [{"image": torch.randint(256, (3, 40, 64), dtype=torch.uint8)} for _ in range(2)]
    found = tower_features(towers, images, 64, ("no_attn", "full"), (1, 4))
    kinds = [f"{t}, {kind}" for t in "ab" for kind in ("no_attn", "block 1", "block 4", "full")]
    assert [list(maps) for maps in found] == [kinds, kinds]
    pixels = letterbox([x["image"] for x in images], 64)[0][:, :, :40]  # the rest is padding
    with torch.no_grad():
        for name, tower in towers.items():
            for mode in ("no_attn", "full"):
                expected = tower.features(tower.normalize(pixels), (1, 4), mode, padded_size=64)
                ours = torch.stack([maps[f"{name}, {mode}"] for maps in found])
                assert ours.shape[2:] == (8, 8) and not ours[:, :, 5:].any()
                torch.testing.assert_close(ours[:, :, :5], expected.dense)
                if mode == "full":
                    continue
                for block, expected_map in zip((1, 4), expected.blocks, strict=True):
                    ours = torch.stack([maps[f"{name}, block {block}"] for maps in found])
                    torch.testing.assert_close(ours[:, :, :5], expected_map)
    with pytest.raises(InputError, match="size=60"):
        tower_features(towers, images, 60)
