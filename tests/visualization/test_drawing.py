"""Overlays: which pixels change, and to what."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2.visualization.drawing import (
    add_legend,
    colours,
    draw_boxes,
    draw_heatmap,
    draw_labels,
    draw_masks,
    grid,
    similarity,
    to_pil,
    upscale,
)

BLACK = (0, 0, 0)
RED = (255, 0, 0)


def canvas(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), BLACK)


def test_similarity_is_the_cosine_of_every_location_and_word() -> None:
    dense, words = torch.randn(6, 3, 4) * 5, torch.randn(2, 6) * 3
    scores = similarity(dense, words)
    assert scores.shape == (2, 3, 4)
    for k in range(2):
        for y in range(3):
            for x in range(4):
                a, b = words[k].tolist(), dense[:, y, x].tolist()
                dot = sum(p * q for p, q in zip(a, b, strict=True))
                expected = dot / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))
                assert scores[k, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_heatmap_blends_the_colour_of_each_cell() -> None:
    values = torch.tensor([[0.0, 0.5], [1.0, 3.0]])
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    drawn = np.asarray(draw_heatmap(image, values, low=0.0, high=1.0, opacity=0.6), dtype=float)
    inferno = matplotlib.colormaps["inferno"]
    for (y, x), level in {(0, 0): 0.0, (0, 3): 0.5, (3, 0): 1.0, (3, 3): 1.0}.items():
        expected = 0.4 * 100 + 0.6 * 255 * np.array(inferno(level)[:3])
        np.testing.assert_allclose(drawn[y, x], expected, atol=1.5)


def test_heatmap_takes_its_range_from_the_values_and_bears_a_flat_map() -> None:
    values = torch.tensor([[-2.0, 6.0]])
    stretched = draw_heatmap(canvas(2, 1), values)
    assert stretched.tobytes() == draw_heatmap(canvas(2, 1), values, low=-2.0, high=6.0).tobytes()
    draw_heatmap(canvas(2, 1), torch.zeros(1, 2))


def test_masks_are_tinted_inside_solid_on_the_rim_and_untouched_outside() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = True
    drawn = np.asarray(draw_masks(canvas(8, 8), mask, [RED], opacity=0.5))
    expected = np.zeros((8, 8), int)
    expected[2:6, 2:6] = 255
    expected[3:5, 3:5] = 128
    assert np.abs(drawn[..., 0].astype(int) - expected).max() <= 1
    assert not drawn[..., 1:].any()


def test_masks_of_another_resolution_cover_the_same_part() -> None:
    mask = torch.tensor([[[True, False]]])
    drawn = np.asarray(draw_masks(canvas(10, 6), mask, [RED]))[..., 0]
    assert (drawn[:, :5] > 0).all() and not drawn[:, 5:].any()


def test_a_box_frames_exactly_its_pixels() -> None:
    drawn = np.asarray(draw_boxes(canvas(40, 40), torch.tensor([[1.0, 2.0, 5.0, 6.0]]), palette=[RED], scale=4))[..., 0]
    ys, xs = np.nonzero(drawn)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (4, 8, 20, 24)
    assert not drawn[10:22, 6:18].any()


def test_a_name_stands_above_its_box_and_inside_when_there_is_no_room() -> None:
    plain = draw_boxes(canvas(120, 80), torch.tensor([[10.0, 40.0, 100.0, 70.0], [10.0, 0.0, 100.0, 30.0]]))
    named = draw_boxes(
        canvas(120, 80), torch.tensor([[10.0, 40.0, 100.0, 70.0], [10.0, 0.0, 100.0, 30.0]]), ["red star", "ring"]
    )
    changed = np.asarray(plain) != np.asarray(named)
    assert changed[20:40].any() and not changed[42:].any()
    assert changed[2:18].any()


def test_names_must_be_as_many_as_boxes() -> None:
    with pytest.raises(ValueError):
        draw_boxes(canvas(9, 9), torch.zeros(2, 4), ["one"])


def test_no_regions_leave_the_image_alone() -> None:
    blank = canvas(6, 5)
    assert draw_boxes(blank, torch.zeros(0, 4)).tobytes() == blank.tobytes()
    assert draw_masks(blank, torch.zeros(0, 5, 6, dtype=torch.bool)).tobytes() == blank.tobytes()


def test_labels_keep_their_colours_in_every_map() -> None:
    small, large = torch.tensor([[0, 1]]), torch.tensor([[1, 4], [0, 3]])
    first, second = np.asarray(draw_labels(small, (4, 2))), np.asarray(draw_labels(large, (4, 4)))
    assert tuple(first[0, 0]) == tuple(second[3, 0]) == colours(5)[0]
    assert tuple(first[1, 3]) == tuple(second[0, 1]) == colours(5)[1]


def test_colours_differ() -> None:
    assert len(set(colours(120))) == 120
    assert colours(120)[:20] == colours(20) and len(colours(3)) == 3


def test_upscaling_repeats_pixels() -> None:
    image = torch.randint(0, 256, (3, 3, 4), dtype=torch.uint8)
    enlarged = np.asarray(upscale(to_pil(image), 12))
    assert np.array_equal(enlarged, image.permute(1, 2, 0).numpy().repeat(3, 0).repeat(3, 1))


def test_grid_places_pictures_of_different_sizes() -> None:
    a, b, c = (Image.new("RGB", size, RED) for size in ((10, 20), (30, 5), (12, 8)))
    drawn = np.asarray(grid([[a, b], [c]], gap=2))
    assert drawn.shape[:2] == (2 + 20 + 2 + 8 + 2, 2 + 12 + 2 + 30 + 2)
    assert (drawn[2:22, 2:12] == RED).all() and (drawn[2:7, 16:46] == RED).all() and (drawn[24:32, 2:14] == RED).all()
    assert (drawn == RED).all(-1).sum() == 200 + 150 + 96


def test_a_legend_takes_the_rows_that_it_needs():
    entries = {"seen in training": (1, 2, 3), "never seen in training": (4, 5, 6)}
    wide, narrow = (add_legend(Image.new("RGB", (width, 50)), entries) for width in (600, 20))
    assert (wide.size, narrow.height) == ((600, 50 + 26), 50 + 2 * 26)
    assert narrow.width > 100  # the longest meaning
    assert narrow.getpixel((19, 25)) == (0, 0, 0) and narrow.getpixel((40, 25)) == (255, 255, 255)
    for picture in (wide, narrow):
        pixels = np.asarray(picture)
        assert all((pixels == colour).all(-1).sum() > 50 for colour in entries.values())
    assert add_legend(Image.new("RGB", (20, 50)), {}).size == (20, 50)
