"""Grids and charts: where images, titles and legends are."""

import numpy as np
from PIL import Image

from clipself_d2.visualization.figures import ColorBar, image_grid, line_chart

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def where(drawn: Image.Image, color) -> np.ndarray:
    return (np.asarray(drawn) == color).all(axis=-1)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_images_of_a_row_have_the_columns_width_and_their_aspect_ratio():
    squares = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (8, 8), BLUE)]
    wide = [Image.new("RGB", (4, 2), GREEN), Image.new("RGB", (2, 1), RED)]
    drawn = image_grid([squares, wide], width=60)
    np.testing.assert_allclose(extent(where(drawn, BLUE)), (76, 8, 136, 68), atol=1)
    np.testing.assert_allclose(extent(where(drawn, GREEN)), (8, 76, 68, 106), atol=1)
    np.testing.assert_allclose(drawn.size, (144, 114), atol=1)
    assert abs(where(drawn, RED).sum() - 60 * 60 - 60 * 30) < 300


def test_pixels_stay_crisp():
    checkers = Image.fromarray(np.array([[RED, BLUE], [BLUE, RED]], dtype=np.uint8))
    drawn = image_grid([[checkers]], width=100)
    assert abs(where(drawn, RED).sum() - 5000) < 250 and abs(where(drawn, BLUE).sum() - 5000) < 250


def test_titles_are_above_and_legends_below_their_row():
    image = Image.new("RGB", (4, 4), RED)
    plain = image_grid([[image, image], [image, image]], width=100)
    drawn = image_grid([[image, image], [image, image]], ["one", "two"], [{"sky": BLUE}, {"lawn": GREEN}], width=100)
    assert drawn.width == plain.width and drawn.height == plain.height + 3 * 22
    first, second = extent(where(drawn, BLUE)), extent(where(drawn, GREEN))
    assert 30 + 100 <= first[1] < first[3] <= 30 + 100 + 22 + 8 < second[1]
    assert (np.asarray(drawn)[:28].min(axis=(1, 2)) < 100).any()  # the titles


def test_a_long_legend_takes_more_rows():
    image, entries = Image.new("RGB", (4, 4), RED), {f"class {number}": (number, 0, 9) for number in range(9)}
    drawn = image_grid([[image, image]], legends=[entries], width=160)  # two entries in a row
    assert drawn.height == 160 + 2 * 8 + 5 * 22
    assert all(where(drawn, color).any() for color in entries.values())


def test_labels_are_left_of_their_row_and_the_bar_right():
    image = Image.new("RGB", (4, 4), RED)
    drawn = image_grid([[image], [image]], width=60, labels=["one", "two"], bar=ColorBar(-1, 1, "cosine"))
    assert drawn.size == (22 + 8 + 60 + 8 + 64, 2 * 60 + 3 * 8)
    assert extent(where(drawn, RED)) == (30, 8, 90, 136)
    dark = np.asarray(drawn).max(axis=-1) < 128
    assert dark[8:68, :30].any() and dark[76:136, :30].any() and not dark[68:76, :30].any()
    assert dark[8:136, 98:].any()


def test_a_line_chart_draws_its_points():
    rising = np.asarray(line_chart([(0, 0), (1, 1)], "t", "x", "y")).astype(int)
    flat = np.asarray(line_chart([(0, 0), (1, 0)], "t", "x", "y")).astype(int)
    assert rising.shape == flat.shape and (rising != flat).any()
