import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipself_d2.regions import crop_and_resize, crops, grid_boxes, letterbox


def natural_image(height, width, seed=0):
    """Smooth shapes with noise: something between a photo and the worst case."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.BICUBIC)).astype(int)
    pixels = smooth + rng.integers(-30, 30, smooth.shape)
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def by_pillow(image, box, size, centered):
    crop = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box)
    scale = size / max(crop.size)
    width, height = (max(1, round(side * scale)) for side in crop.size)
    square = Image.new("RGB", (size, size))
    corner = ((size - width) // 2, (size - height) // 2) if centered else (0, 0)
    square.paste(crop.resize((width, height), Image.BICUBIC), corner)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float()


BOXES = [
    (0, 0, 213, 160),  # whole image
    (3.5, 4.5, 90.5, 60.49),  # halves are rounded to even
    (10, 10, 30, 150),  # tall
    (0, 100, 213, 104),  # very wide
    (50, 50, 51, 51),  # a pixel
    (100.2, 20.7, 110.1, 31.3),  # enlarged
]


@pytest.mark.parametrize("size", [32, 224])
def test_crops_equal_pillow(size):
    image = natural_image(160, 213)
    result = crop_and_resize(image, torch.tensor(BOXES), size)
    assert result.shape == (len(BOXES), 3, size, size) and result.dtype == torch.float32
    for ours, box in zip(result, BOXES, strict=True):
        difference = (ours - by_pillow(image, box, size, centered=True)).abs()
        assert difference.mean() < 0.1 and difference.max() <= 2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_crop_equals_pillow(data):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    image = natural_image(height, width, seed=height * 100 + width)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    size = data.draw(st.integers(1, 70))
    [ours] = crop_and_resize(image, torch.tensor([box]), size)
    assert (ours - by_pillow(image, box, size, centered=True)).abs().max() <= 2


@pytest.mark.parametrize(("height", "width", "size"), [(160, 213, 128), (50, 40, 224), (64, 64, 64), (300, 100, 96)])
def test_letterbox_equals_pillow(height, width, size):
    image = natural_image(height, width)
    result, [scale] = letterbox([image], size)
    assert scale == size / max(height, width)
    difference = (result[0] - by_pillow(image, (0, 0, width, height), size, centered=False)).abs()
    assert difference.mean() < 0.1 and difference.max() <= 2


def test_letterbox_takes_images_of_any_size_together():
    images = [natural_image(40, 60), natural_image(80, 20)]
    result, scales = letterbox(images, 32)
    assert result.shape == (2, 3, 32, 32) and scales == [32 / 60, 32 / 80]
    assert torch.equal(result[1], letterbox(images[1:], 32)[0][0])
    assert (result[0, :, 21:] == 0).all() and (result[1, :, :, 8:] == 0).all()


def test_runs_of_regions_change_nothing(monkeypatch):
    image, boxes = natural_image(160, 213), torch.cat([torch.tensor(BOXES), grid_boxes(3, 4, 160, 213)])
    together = crop_and_resize(image, boxes, 48)
    monkeypatch.setattr(crops, "_MAX_ELEMENTS", 3 * 160 * 213)
    assert (crop_and_resize(image, boxes, 48) - together).abs().max() <= 1


def test_boxes_outside_the_image_are_clipped():
    image = natural_image(30, 40)
    boxes = torch.tensor([[-10.0, -10, 100, 100], [500, 500, 600, 600], [20, 20, 20, 20], [float("nan")] * 4])
    result = crop_and_resize(image, boxes, 16)
    assert torch.equal(result[0], crop_and_resize(image, torch.tensor([[0, 0, 40, 30]]), 16)[0])
    assert (result[1] == image[:, -1, -1, None, None]).all()  # the nearest pixel
    assert (result[2] == image[:, 20, 20, None, None]).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (10000, 30)])
def test_extreme_shapes(height, width):
    image = torch.full((3, height, width), 200, dtype=torch.uint8)
    [crop] = crop_and_resize(image, torch.tensor([[0.0, 0.0, width, height]]), 32)
    [whole], _ = letterbox([image], 32)
    for result in (crop, whole):
        assert set(result.unique().tolist()) <= {0.0, 200.0} and (result == 200).any()


def test_no_regions():
    assert crop_and_resize(natural_image(9, 9), torch.zeros(0, 4), 8).shape == (0, 3, 8, 8)


def test_autocast_does_not_coarsen():
    image, boxes = natural_image(60, 80), torch.tensor([[5, 5, 70, 50]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crop_and_resize(image, boxes, 32), crop_and_resize(image, boxes, 32))
        inside = crop_and_resize(image, boxes, 32)
    assert torch.equal(inside, crop_and_resize(image, boxes, 32))
