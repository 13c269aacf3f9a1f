"""Windows and their merging against loops over pixels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.semantic import cut_windows, merge_windows, window_corners


@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 4), st.sampled_from([0, 0.25, 1 / 3, 0.5, 0.9]))
def test_windows_cover_the_image_and_do_not_leave_it(height, width, kernel, overlap):
    seen = torch.zeros(height, width, dtype=torch.long)
    corners = window_corners((height, width), kernel, overlap)
    assert len(set(corners)) == len(corners)
    for top, left in corners:
        assert 0 <= top <= height - kernel and 0 <= left <= width - kernel
        seen[top : top + kernel, left : left + kernel] += 1
    assert (seen > 0).all()


def test_the_published_windows():
    """384 of 640 with a third in common: two a side, 256 apart."""
    assert window_corners((640, 640), 384) == [(0, 0), (0, 256), (256, 0), (256, 256)]
    assert window_corners((4, 7), 4, 0) == [(0, 0), (0, 3)]
    assert window_corners((4, 4), 4) == [(0, 0)]


def test_an_image_smaller_than_a_window_is_refused():
    with pytest.raises(InputError, match="30 x 50 pixels, a window 32 x 32: enlarge the image"):
        window_corners((50, 30), 32)


@pytest.mark.parametrize("overlap", [-0.1, 1])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(InputError, match="overlap"):
        window_corners((50, 50), 32, overlap)


@pytest.mark.parametrize("with_whole", [False, True])
def test_merging_equals_a_loop_over_pixels(with_whole):
    size, kernel = (9, 13), 5
    corners = window_corners(size, kernel, 0.4)
    windows = torch.rand(len(corners), 3, kernel, kernel)
    whole = torch.rand(3, 4, 4) if with_whole else None
    merged = merge_windows(windows, corners, size, whole)
    grown = F.interpolate(whole[None], size, mode="bilinear", align_corners=False)[0] if with_whole else None
    for k in range(3):
        for y in range(size[0]):
            for x in range(size[1]):
                values = [
                    float(window[k, y - top, x - left])
                    for window, (top, left) in zip(windows, corners, strict=True)
                    if 0 <= y - top < kernel and 0 <= x - left < kernel
                ]
                expected = sum(values) / len(values)
                if with_whole:
                    expected = (expected + float(grown[k, y, x])) / 2
                assert float(merged[k, y, x]) == pytest.approx(expected, abs=1e-6)


def test_windows_of_an_image_are_merged_to_it():
    image = torch.randn(3, 17, 23)
    corners = window_corners((17, 23), 8)
    windows = cut_windows(image, corners, 8)
    assert windows.shape == (len(corners), 3, 8, 8)
    assert torch.allclose(merge_windows(windows, corners, (17, 23)), image, atol=1e-6)
