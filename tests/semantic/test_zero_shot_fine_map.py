"""The stride trick against crops cut one by one, and against an image that says where it is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipself_d2.clip import build_image_tower
from clipself_d2.errors import InputError
from clipself_d2.miniature import MODEL
from clipself_d2.semantic.fine_map import check_factor, fine_map, interleave, map_origin, shifted_windows


def pool(stride):
    return lambda windows, numbers: F.avg_pool2d(windows, stride)


@pytest.mark.parametrize(("stride", "factor"), [(8, 1), (8, 2), (8, 4), (8, 8), (6, 3), (14, 2), (14, 7)])
def test_cells_lie_where_the_fine_grid_has_them(stride, factor):
    """An image whose pixels hold their row and column: the mean of a cell is its center."""
    height, width = 4 * stride, 5 * stride
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    image = torch.stack([y, x, torch.zeros_like(x)])[None]
    cells = fine_map(pool(stride), image, stride, factor)[0]
    step = stride / factor
    assert cells.shape == (3, 4 * factor, 5 * factor)
    # Off the border, which is padded, a cell of `stride` pixels is centered on its place in the fine grid.
    inner = slice(factor, -factor)
    origin = 0.5 if (stride, factor) in [(8, 8), (14, 2)] else 0.0
    assert map_origin(stride, factor) == origin
    rows = (torch.arange(4 * factor) + 0.5) * step + origin
    columns = (torch.arange(5 * factor) + 0.5) * step + origin
    torch.testing.assert_close(cells[0, inner, inner], rows[inner, None].expand(-1, 3 * factor))
    torch.testing.assert_close(cells[1, inner, inner], columns[None, inner].expand(2 * factor, -1))


def test_a_tower_sees_the_shifted_crops(monkeypatch):
    monkeypatch.setattr("clipself_d2.semantic.fine_map._MAX_PIXELS", 3 * 48 * 64)  # runs of three windows
    tower = build_image_tower(MODEL, None).eval()
    factor, stride = 4, tower.stride
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        fine = fine_map(lambda windows, numbers: tower.dense_embeddings(windows), images, stride, factor)
        for number, image in enumerate(images.numpy()):
            # Shifts of -3, -1, 1 and 3 pixels: the border is repeated where a crop begins or ends outside.
            padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
            for i in range(factor):
                for j in range(factor):
                    top, left = 2 * i, 2 * j
                    crop = torch.from_numpy(padded[None, :, top : top + 48, left : left + 64])
                    expected = tower.dense_embeddings(crop)[0]
                    for row in range(6):
                        for column in range(8):
                            found = fine[number, :, row * factor + i, column * factor + j]
                            torch.testing.assert_close(found, expected[:, row, column], rtol=1e-4, atol=1e-5)


def test_one_shift_is_the_image_itself():
    images = torch.randn(2, 3, 16, 24)
    assert torch.equal(shifted_windows(images, 8, 1)[:, 0, 0], images)
    assert torch.equal(fine_map(pool(8), images, 8, 1), F.avg_pool2d(images, 8))


def test_the_function_knows_whose_windows_it_sees():
    images = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    seen = []

    def function(windows, numbers):
        assert windows[:, 0, 0, 0].tolist() == [(3.0, 5.0)[n] for n in numbers]
        seen.extend(numbers)
        return F.avg_pool2d(windows, 8)

    fine_map(function, images, 8, 2)
    assert seen == [0] * 4 + [1] * 4


def test_windows_take_no_memory_of_their_own():
    windows = shifted_windows(torch.randn(1, 3, 64, 64), 8, 4)
    assert windows.shape == (1, 4, 4, 3, 64, 64)
    assert windows.untyped_storage().nbytes() == 4 * 3 * 70 * 70


def test_interleave_by_loops():
    maps = torch.randn(2, 3, 3, 5, 2, 4)
    result = interleave(maps)
    assert result.shape == (2, 5, 6, 12)
    for row in range(6):
        for column in range(12):
            expected = maps[:, row % 3, column % 3, :, row // 3, column // 3]
            assert torch.equal(result[:, :, row, column], expected)


@pytest.mark.parametrize(("stride", "possible"), [(8, [1, 2, 4, 8]), (14, [1, 2, 7, 14])])
def test_shifts_are_whole_pixels(stride, possible):
    for factor in range(stride + 2):
        if factor in possible:
            check_factor(stride, factor)
        else:
            with pytest.raises(InputError, match=f"stride {stride} .* of {', '.join(map(str, possible))}$"):
                check_factor(stride, factor)
