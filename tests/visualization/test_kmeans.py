"""K-Means maps: planted clusters, determinism, and the matching of colors."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipself_d2.visualization.colors import distinct_colors
from clipself_d2.visualization.kmeans import compare_kmeans, kmeans_map, match_labels


def planted(labels: torch.Tensor, noise: float = 0.05) -> torch.Tensor:
    """Dense features, 16 channels, of random length, around one direction for every label."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    dense = directions[labels].permute(2, 0, 1)
    dense = dense + noise * torch.randn(dense.shape, generator=generator)
    return dense * torch.rand(labels.shape, generator=generator).add(0.1)


@pytest.fixture
def quarters() -> torch.Tensor:
    """A map of 10 x 12 in four parts of sizes 60, 30, 20, 10."""
    labels = torch.zeros(10, 12, dtype=torch.long)
    labels[:5, 6:] = 1
    labels[5:, 6:10] = 2
    labels[5:, 10:] = 3
    return labels


def test_planted_clusters_are_recovered_largest_first(quarters: torch.Tensor) -> None:
    shuffled = torch.tensor([2, 0, 3, 1])[quarters]
    assert torch.equal(kmeans_map(planted(shuffled), 4), quarters)


def test_the_same_seed_gives_the_same_map() -> None:
    dense = torch.randn(8, 9, 7)
    assert torch.equal(kmeans_map(dense, 5, seed=3), kmeans_map(dense.clone(), 5, seed=3))


def test_length_of_features_does_not_matter() -> None:
    dense = torch.randn(8, 9, 7)
    assert torch.equal(kmeans_map(dense, 4), kmeans_map(dense * 4.0, 4))


def test_no_more_clusters_than_locations() -> None:
    labels = kmeans_map(torch.randn(8, 1, 3), clusters=9)
    assert sorted(labels.flatten().tolist()) == [0, 1, 2]


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_matching_is_the_best_of_all_renumberings(clusters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, reference = torch.from_numpy(rng.integers(0, clusters, (2, 5, 6)))
    matched = match_labels(labels, reference, clusters)
    best = max(int((torch.tensor(order)[labels] == reference).sum()) for order in permutations(range(clusters)))
    assert int((matched == reference).sum()) == best
    pairs = {(int(a), int(b)) for a, b in zip(labels.flatten(), matched.flatten(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_comparison_shows_equal_maps_in_equal_colors(quarters: torch.Tensor) -> None:
    image = torch.full((3, 40, 48), 7, dtype=torch.uint8)
    before, after = planted(quarters), planted(torch.tensor([3, 2, 1, 0])[quarters])
    drawn = np.asarray(compare_kmeans([image], {"before": [before], "after": [after]}, clusters=4))
    top, height = 22 + 8, 256 * 40 / 48
    rows = (top + height * (np.arange(10) + 0.5) / 10).astype(int)
    columns = (256 * (np.arange(12) + 0.5) / 12).astype(int)
    first, second, third = (drawn[np.ix_(rows, left + columns)] for left in (8, 272, 536))
    assert (first == 7).all()
    expected = np.array(distinct_colors(4), dtype=np.uint8)[quarters.numpy()]
    assert np.array_equal(second, expected)
    assert np.array_equal(third, expected)
