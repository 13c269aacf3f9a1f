"""Windows of resized images: geometry, pixels and labels against naive arithmetic and Pillow."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipself_d2.data.transforms import ResizeCropTransform, random_resize_crop

sides = st.integers(1, 60)


@st.composite
def views(draw):
    """Transforms of random_resize_crop, its resize and crop, whether it mirrors, its shape, and size and long side."""
    source, size = (draw(sides), draw(sides)), draw(st.integers(1, 40))
    long_side, flip = size * draw(st.floats(0.1, 2.0)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    transforms, shape = random_resize_crop(source, long_side, size, float(flip), rng)
    crop = transforms.transforms[0]
    assert isinstance(crop, ResizeCropTransform) and shape == crop.shape and crop.source == source
    assert [type(t) for t in transforms.transforms[1:]] == [T.HFlipTransform] * flip
    return transforms, crop, flip, size


@given(views())
def test_the_aspect_is_kept_and_the_size_fits(drawn):
    _, crop, _, size = drawn
    (height, width), (tall, wide) = crop.source, crop.resized
    factor = max(tall, wide) / max(height, width)
    for before, after in ((height, tall), (width, wide)):
        assert after >= 1 and abs(after - before * factor) <= 0.5 * (1 + before / max(height, width)) + (after == 1)
    assert crop.shape == (min(tall, size), min(wide, size))
    assert 0 <= crop.top <= tall - crop.shape[0] and 0 <= crop.left <= wide - crop.shape[1]


@given(views(), st.integers(0, 99))
def test_pixels_are_those_of_detectron2s_resize_then_crop(drawn, seed):
    transforms, crop, flip, _ = drawn
    pixels = np.random.default_rng(seed).integers(0, 256, (*crop.source, 3), dtype=np.uint8)
    expected = T.TransformList(
        [
            T.ResizeTransform(*crop.source, *crop.resized),
            T.CropTransform(crop.left, crop.top, crop.shape[1], crop.shape[0]),
            *([T.HFlipTransform(crop.shape[1])] if flip else []),
        ]
    ).apply_image(pixels)
    seen = transforms.apply_image(pixels)
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).max() <= 2


@given(views(), st.lists(st.tuples(*[st.floats(-5, 70)] * 4), max_size=4))
def test_points_equal_a_loop(drawn, boxes):
    transforms, crop, flip, _ = drawn
    for x0, y0, x1, y1 in boxes:
        corners = []
        for x, y in ((x0, y0), (x1, y1)):
            x = x * crop.resized[1] / crop.source[1] - crop.left
            y = y * crop.resized[0] / crop.source[0] - crop.top
            corners.append((crop.shape[1] - x if flip else x, y))
        expected = [*np.min(corners, axis=0), *np.max(corners, axis=0)]
        np.testing.assert_allclose(transforms.apply_box(np.array([[x0, y0, x1, y1]]))[0], expected, atol=1e-9)


@given(st.integers(6, 40), st.integers(6, 40), st.integers(3, 30), st.booleans(), st.integers(0, 99))
def test_labels_are_the_nearest(height, width, size, flip, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 70000, (height, width))
    long_side = size * max(height, width) / min(height, width)
    transforms, shape = random_resize_crop((height, width), long_side, size, float(flip), rng)
    crop = transforms.transforms[0]
    seen = transforms.apply_segmentation(labels)
    assert seen.shape == (size, size) == shape
    for y in range(0, size, 3):
        for x in range(0, size, 3):
            column = size - 1 - x if flip else x
            # the middle of the pixel, in the image; halves may fall to either side
            row = (crop.top + y + 0.5) * height / crop.resized[0]
            col = (crop.left + column + 0.5) * width / crop.resized[1]
            near = {
                int(labels[min(height - 1, int(row + dy)), min(width - 1, int(col + dx))])
                for dy in (-1e-3, 1e-3)
                for dx in (-1e-3, 1e-3)
            }
            assert int(seen[y, x]) in near


def test_windows_lie_anywhere_with_the_same_chance():
    rng = np.random.default_rng(0)
    crops = [random_resize_crop((10, 20), 20, 8, 0.5, rng)[0].transforms for _ in range(600)]
    tops = np.bincount([t[0].top for t in crops])
    lefts = np.bincount([t[0].left for t in crops])
    assert len(tops) == 3 and tops.min() > 150 and len(lefts) == 13 and lefts.min() > 20
    assert 230 < sum(len(t) == 2 for t in crops) < 370


def test_pixels_are_pillows_with_a_box():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    seen = ResizeCropTransform((20, 30), (40, 60), 10, 20, (16, 24)).apply_image(pixels)
    expected = Image.fromarray(pixels).resize((24, 16), Image.Resampling.BILINEAR, box=(10, 5, 22, 13))
    np.testing.assert_array_equal(seen, np.asarray(expected))


def bilinear(pixels, resized):
    """Sample an image at the centers of the pixels of a resized one, from the four nearest centers of its own."""
    result = np.empty((*resized, 3))
    for y in range(resized[0]):
        for x in range(resized[1]):
            row, column = (
                (i + 0.5) * side / new - 0.5 for i, side, new in zip((y, x), pixels.shape, resized, strict=False)
            )
            top, left = int(np.floor(row)), int(np.floor(column))
            value = 0.0
            for i, down in ((top, 1 - (row - top)), (top + 1, row - top)):
                for j, right in ((left, 1 - (column - left)), (left + 1, column - left)):
                    value = (
                        value
                        + down * right * pixels[min(max(i, 0), len(pixels) - 1), min(max(j, 0), pixels.shape[1] - 1)]
                    )
            result[y, x] = value
    return result


@pytest.mark.parametrize("resized", [(3, 5), (11, 9), (20, 30), (37, 51)])
def test_pixels_without_antialias_equal_a_loop(resized):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    height, width = resized[0] - 2, resized[1] - 1
    window = ResizeCropTransform((20, 30), resized, 1, 1, (height, width), antialias=False)
    expected = bilinear(pixels.astype(float), resized)[1 : 1 + height, 1 : 1 + width]
    seen = window.apply_image(pixels)
    assert seen.dtype == np.uint8 and np.abs(seen - expected).max() <= 0.5 + 1e-3
    assert np.array_equal(window.apply_image(pixels[:, :, 1]), seen[:, :, 1])
    cv2 = pytest.importorskip("cv2")
    theirs = cv2.resize(pixels, resized[::-1], interpolation=cv2.INTER_LINEAR)[1 : 1 + height, 1 : 1 + width]
    assert np.abs(seen.astype(int) - theirs).max() <= 1
