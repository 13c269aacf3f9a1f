from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.miniature.dataset import SPLITS, scene_of
from clipself_d2.miniature.world import CLASSES, COLORS, SHAPES, STUFF, THINGS, frequency, is_novel, sample_scene

NOVEL = {name for i, name in enumerate(THINGS) if is_novel(i)}
seeds = st.integers(0, 2**32 - 1)


def sample(seed, **options):
    return sample_scene(np.random.default_rng(seed), **options)


def test_things_are_all_compounds_and_stuff_follows():
    assert len(THINGS) == 96 and len(STUFF) == 8
    assert set(THINGS) == {f"{color} {shape}" for color in COLORS for shape in SHAPES}
    assert CLASSES == THINGS + STUFF
    assert len(set(CLASSES)) == 104


def test_two_shapes_one_color_and_some_pairs_are_novel():
    base = [name.split() for name in THINGS if name not in NOVEL]
    assert set(SHAPES) - {shape for _, shape in base} == {"star", "moon"}
    assert set(COLORS) - {color for color, _ in base} == {"purple"}
    pairs = [name for name in NOVEL if not {"purple", "star", "moon"} & set(name.split())]
    assert len(base) == 62 and len(NOVEL) == 34 and len(pairs) == 8
    for word in {word for name in base for word in name}:  # known parts are seen in many pairs
        assert sum(word in name for name in base) >= 5


def test_frequencies_are_rare_for_novel_alone():
    assert {name for i, name in enumerate(THINGS) if frequency(i) == "r"} == NOVEL
    common, frequent = (sum(frequency(i) == letter for i in range(96)) for letter in "cf")
    assert common + frequent == 62
    assert min(common, frequent) >= 20


@given(seeds)
def test_a_scene_is_a_function_of_the_seed(seed):
    assert sample(seed) == sample(seed)
    assert sample(seed) != sample(seed + 1)


@given(seeds, st.integers(0, 8), st.integers(0, 3), st.integers(1, 4), st.integers(0, 2))
def test_counts_and_ranges_are_those_asked_for(seed, fewest, more, grounds, more_grounds):
    most_grounds = min(grounds + more_grounds, 4)
    scene = sample(
        seed, categories=(3, 50), things=(fewest, fewest + more), radius=(0.05, 0.08), grounds=(grounds, most_grounds)
    )
    assert len(scene.things) <= fewest + more
    if fewest <= 4:  # small things: there is room for four
        assert len(scene.things) >= fewest
    assert grounds <= len(scene.grounds) <= most_grounds
    assert len(scene.lines) == len(scene.grounds) - 1
    assert {thing.category for thing in scene.things} <= {3, 50}
    assert all(0.05 <= thing.radius <= 0.08 for thing in scene.things)


@given(seeds)
def test_things_stand_in_the_square_upright_and_apart(seed):
    things = sample(seed).things
    assert 1 <= len(things) <= 7
    for i, a in enumerate(things):
        assert 0.09 <= a.radius <= 0.19
        assert 0.7 * a.radius <= min(a.x, a.y) and max(a.x, a.y) <= 1 - 0.7 * a.radius
        assert abs(np.degrees(a.angle)) <= 20.1
        assert max(map(abs, a.tint)) <= 18 and 0 <= a.shading <= 0.25
        for b in things[:i]:
            assert np.hypot(a.x - b.x, a.y - b.y) > 0.85 * (a.radius + b.radius)


@given(seeds, st.integers(1, 4))
def test_grounds_are_different_bands_of_a_fifth_and_more(seed, count):
    scene = sample(seed, grounds=(count, count))
    assert len({ground.category for ground in scene.grounds}) == count
    if count == 1:
        return
    normals = {line[:2] for line in scene.lines}
    assert len(normals) == 1
    (normal,) = normals
    assert np.hypot(*normal) == pytest.approx(1)
    corners = [x * normal[0] + y * normal[1] for x in (0, 1) for y in (0, 1)]
    edges = [min(corners), *(line[2] for line in scene.lines), max(corners)]
    assert min(b - a for a, b in pairwise(edges)) >= 0.2


def test_the_splits_hold_every_class_and_share_no_scene():
    scenes = {(split, index): scene_of(split, index) for split in SPLITS for index in range(300)}
    assert len({scene.things for scene in scenes.values()}) == 600
    for split in SPLITS:
        drawn = [scene for (of, _), scene in scenes.items() if of == split]
        assert {thing.category for scene in drawn for thing in scene.things} == set(range(96))
        assert {ground.category for scene in drawn for ground in scene.grounds} == set(range(8))
        # 300 scenes of 4 to 7 things, but for a few full squares.
        assert 5 <= np.mean([len(scene.things) for scene in drawn]) <= 5.6
        assert min(len(scene.things) for scene in drawn) >= 3
    assert scene_of("val", 7) == scenes["val", 7]


def test_the_scenes_are_still_those_of_version_1():
    """The shipped CLIP knows this world, and old images are not drawn again: change `dataset.VERSION` with it."""
    scene = scene_of("train", 0)
    assert [THINGS[thing.category] for thing in scene.things] == [
        "cyan moon",
        "cyan heart",
        "blue bolt",
        "yellow flower",
        "white moon",
        "black ring",
        "white square",
    ]
    assert [STUFF[ground.category] for ground in scene.grounds] == ["brick wall", "snow field"]
    assert [thing.x for thing in scene.things] == pytest.approx(
        [0.116, 0.735, 0.436, 0.853, 0.488, 0.168, 0.5], abs=1e-3
    )
