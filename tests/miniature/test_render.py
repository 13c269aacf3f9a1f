from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import OUTLINES, render
from clipself_d2.miniature.world import COLORS, COMPOUNDS, SHAPES, STUFF, Ground, Scene, Thing, sample_scene

LAWN, POND, SNOW = (Ground(STUFF.index(name), 5, 1.0) for name in ("lawn", "pond", "snow field"))


def thing(color, shape, x=0.5, y=0.5, radius=0.19, angle=0.0):
    return Thing(COMPOUNDS.index((color, shape)), x, y, radius, angle, (0.0, 0.0, 0.0), 0.0)


def alone(*things, grounds=(LAWN,), lines=()):
    return Scene(tuple(things), tuple(grounds), tuple(lines))


def turned(outline, angle):
    """Corners turned by `angle` from the x axis towards the y axis."""
    z = (outline[:, 0] + 1j * outline[:, 1]) * np.exp(1j * angle)
    return np.stack([z.real, z.imag], 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.2, -0.3])
def test_a_thing_covers_the_pixels_inside_its_outline(shape, angle):
    size, radius = 200, 0.3
    _, segments = render(alone(thing("red", shape, 0.52, 0.47, radius, angle)), size)
    y, x = np.mgrid[:size, :size] + 0.5
    points = np.stack([x.ravel(), y.ravel()], 1)
    corners = [(turned(o, angle) * radius + [0.52, 0.47]) * size for o in OUTLINES[shape]]
    inside = Outline(corners[0]).contains_points(points)
    for hole in corners[1:]:
        inside &= ~Outline(hole).contains_points(points)
    closed = [np.concatenate([c, c[:1]]) for c in corners]
    rim = np.min([distance(points, a, b) for c in closed for a, b in pairwise(c)], axis=0)
    clear = rim > 0.75  # pixels from the outline: half a diagonal, and Pillow's rounding
    clear &= np.abs(points - [0.52 * size, 0.47 * size]).max(1) < 1.09 * radius * size  # see the tests of the box below
    assert clear.sum() > 0.9 * (2 * 1.09 * radius * size) ** 2
    assert np.array_equal((segments.ravel() == 1)[clear], inside[clear])


def distance(points, a, b):
    """From each point to the line segment from a to b."""
    along = np.clip((points - a) @ (b - a) / max(((b - a) ** 2).sum(), 1e-12), 0, 1)
    return np.linalg.norm(points - a - along[:, None] * (b - a), axis=1)


def test_areas_are_those_of_geometry():
    size, r = 400, 0.19
    area = {shape: (render(alone(thing("red", shape)), size)[1] == 1).mean() for shape in SHAPES}
    assert area["circle"] == pytest.approx(np.pi * r**2, rel=0.01)
    assert area["ring"] == pytest.approx(np.pi * r**2 * (1 - 0.55**2), rel=0.01)
    assert area["diamond"] == pytest.approx(2 * 0.62 * r**2, rel=0.01)
    assert area["triangle"] == pytest.approx(1.75 * r**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fit_the_painters_box(shape):
    for angle in np.linspace(-0.35, 0.35, 71):
        assert np.abs(turned(OUTLINES[shape][0], angle)).max() <= 1.25


@pytest.mark.parametrize("shape", ["ring", "flower"])
def test_holes_show_the_ground(shape):
    bare, _ = render(alone(), 101)
    image, segments = render(alone(thing("red", shape, radius=0.4)), 101)
    assert segments[50, 50] == 0
    assert np.array_equal(image[48:53, 48:53], bare[48:53, 48:53])
    assert segments[50, 50 + 30] == 1


def test_the_later_thing_lies_on_top():
    red, blue = thing("red", "bolt", radius=0.3), thing("blue", "bolt", radius=0.2)
    center = (50, 50)
    for first, second in ((red, blue), (blue, red)):
        image, segments = render(alone(first, second), 101)
        assert segments[center] == 2
        assert tuple(image[center]) == COLORS[COMPOUNDS[second.category][0]]  # a bolt is plain
    _, segments = render(alone(thing("red", "circle", radius=0.1), thing("blue", "square", radius=0.3)), 101)
    assert not (segments == 1).any()


def test_tint_and_shading_change_the_color():
    tinted = replace(thing("green", "bolt"), tint=(10.0, -10.0, 3.0))
    assert tuple(render(alone(tinted), 101)[0][50, 50]) == (50, 150, 63)
    shaded = render(alone(replace(thing("green", "cross", radius=0.4), shading=0.25)), 101)[0].astype(int)
    assert shaded[20, 45:56].mean() > shaded[80, 45:56].mean()  # darker below


def test_a_point_is_of_the_ground_whose_lines_it_lies_beyond():
    lines = ((0.6, 0.8, 0.4), (0.6, 0.8, 0.9))
    image, segments = render(alone(grounds=(LAWN, POND, SNOW), lines=lines), 60)
    for row in range(0, 60, 7):
        for column in range(0, 60, 7):
            height = 0.6 * (column + 0.5) / 60 + 0.8 * (row + 0.5) / 60
            assert segments[row, column] == (height > 0.4) + (height > 0.9)
    for i, ground in enumerate((LAWN, POND, SNOW)):
        whole, _ = render(alone(grounds=(ground,)), 60)
        assert np.array_equal(image[segments == i], whole[segments == i])


def test_brightness_scales_a_ground():
    full, half = (render(alone(grounds=(replace(LAWN, brightness=b),)), 64)[0].astype(float) for b in (1.0, 0.5))
    assert np.abs(full / 2 - half).max() <= 1


def test_grounds_differ_by_class_and_by_seed():
    views = [render(alone(grounds=(Ground(i, 5, 1.0),)), 64)[0].astype(float) for i in range(len(STUFF))]
    for i, a in enumerate(views):
        assert a.std(axis=(0, 1)).max() > 3  # textured
        assert all(np.abs(a - b).mean() > 5 for b in views[:i])
    other, _ = render(alone(grounds=(replace(LAWN, seed=6),)), 64)
    assert not np.array_equal(other, render(alone(), 64)[0])


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("left, top, pixels", [(64, 128, 256), (300, 37, 200), (0, 0, 512)])
def test_a_window_is_the_crop_of_a_finer_rendering(index, left, top, pixels):
    scene = scene_of("val", index)
    image, segments = render(scene, 512)
    window = (left / 512, top / 512, pixels / 512)
    crop = image[top : top + pixels, left : left + pixels].astype(float)
    labels = segments[top : top + pixels, left : left + pixels]

    same, same_labels = render(scene, pixels, window)
    assert (same_labels != labels).mean() < 1e-3
    assert (np.abs(same - crop) > 2).mean() < 5e-3

    # At half the resolution: labels wherever four pixels agree, and colors but for the fine detail of textures.
    half, half_labels = render(scene, pixels // 2, window)
    quads = labels.reshape(pixels // 2, 2, pixels // 2, 2).swapaxes(1, 2).reshape(pixels // 2, pixels // 2, 4)
    clear = (quads == quads[..., :1]).all(-1)
    assert clear.mean() > 0.95
    assert (half_labels == quads[..., 0])[clear].mean() > 0.999
    assert np.abs(half - crop.reshape(pixels // 2, 2, pixels // 2, 2, 3).mean((1, 3))).mean() < 8


def test_things_outside_the_window_change_nothing():
    window = (0.0, 0.0, 0.4)
    with_thing, segments = render(alone(thing("red", "square", 0.7, 0.7)), 64, window)
    bare, _ = render(alone(), 64, window)
    assert np.array_equal(with_thing, bare)
    assert not segments.any()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 80),
    st.floats(-0.5, 1),
    st.floats(-0.5, 1),
    st.floats(0.05, 1.5),
)
def test_any_window_can_be_drawn_and_is_drawn_the_same_again(seed, size, left, top, side):
    scene = sample_scene(np.random.default_rng(seed))
    image, segments = render(scene, size, (left, top, side))
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert segments.shape == (size, size) and segments.dtype == np.int64
    assert segments.min() >= 0 and segments.max() < len(scene.grounds) + len(scene.things)
    again = render(scene, size, (left, top, side))
    assert np.array_equal(image, again[0]) and np.array_equal(segments, again[1])


def test_things_of_a_scene_hide_little_of_each_other():
    shares = []
    for index in range(40):
        scene = scene_of("train", index)
        _, segments = render(scene, 128)
        for j, one in enumerate(scene.things, len(scene.grounds)):
            _, whole = render(replace(scene, things=(one,)), 128)
            shares.append((segments == j).sum() / (whole == len(scene.grounds)).sum())
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.75
