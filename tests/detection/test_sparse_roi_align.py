import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from clipself_d2.detection.sparse_roi_align import sparse_roi_align

STRIDES = [3.5, 7.0, 16.0]
SIDE = 112


def maps_of(images=2, channels=4):
    return [torch.randn(images, channels, round(SIDE / s), round(SIDE * 2 / s)) for s in STRIDES]


def torchvision_pools(maps, rois, levels, size):
    pooled = torch.zeros(len(rois), maps[0].shape[1], size, size)
    for level, stride in enumerate(STRIDES):
        chosen = (levels == level).nonzero()[:, 0]
        part = roi_align(maps[level], rois[chosen], size, 1 / stride, sampling_ratio=-1, aligned=True)
        pooled = pooled.index_copy(0, chosen, part)
    return pooled


coordinates = st.floats(-40, 2 * SIDE + 40, width=32)


@given(
    st.lists(st.tuples(st.integers(0, 1), *[coordinates] * 4, st.integers(0, 2)), max_size=8), st.sampled_from([1, 7])
)
def test_it_is_torchvision_s(drawn, size):
    """Boxes inside, outside, across the border and without area; all levels at once."""
    maps = maps_of()
    rois = torch.tensor([row[:5] for row in drawn]).view(-1, 5).float()
    rois[:, 1::2], rois[:, 2::2] = rois[:, 1::2].sort(dim=1)[0], rois[:, 2::2].sort(dim=1)[0]
    levels = torch.tensor([row[5] for row in drawn], dtype=torch.long)
    found = sparse_roi_align(maps, rois, levels, STRIDES, size)
    torch.testing.assert_close(found, torchvision_pools(maps, rois, levels, size), atol=2e-5, rtol=1e-4)


def test_long_and_tiny_boxes():
    maps = maps_of()
    boxes = [
        [0, 0, 0, 224, 1],
        [1, 5, 0, 6, 112],
        [0, 3, 3, 3.01, 3.01],
        [1, -500, -500, 900, 900],
        [0, 0, 0, 224, 112],
    ]
    rois, levels = torch.tensor(boxes, dtype=torch.float32), torch.tensor([0, 0, 1, 0, 2])
    for size in (1, 7, 14):
        found = sparse_roi_align(maps, rois, levels, STRIDES, size)
        torch.testing.assert_close(found, torchvision_pools(maps, rois, levels, size), atol=2e-5, rtol=1e-4)


def test_boxes_upside_down_are_pooled_from_nothing():
    """torchvision's raises an error."""
    found = sparse_roi_align(maps_of(), torch.tensor([[0.0, 50, 50, 20, 90]]), torch.tensor([0]), STRIDES, 7)
    assert not found.any()


def test_gradients_are_torchvision_s():
    maps = maps_of()
    rois = torch.rand(20, 5) * torch.tensor([2, 100, 50, 100, 50])
    rois[:, 0].floor_()
    rois[:, 3:] += rois[:, 1:3]
    levels = torch.randint(0, 3, (20,))
    weights = torch.randn(20, 4, 7, 7)
    gradients = []
    for pool in (
        lambda x: sparse_roi_align(x, rois, levels, STRIDES, 7),
        lambda x: torchvision_pools(x, rois, levels, 7),
    ):
        leaves = [x.clone().requires_grad_() for x in maps]
        (pool(leaves) * weights).sum().backward()
        gradients.append([x.grad for x in leaves])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_answer_is_fp32_and_channels_last(dtype):
    maps = [x.to(dtype) for x in maps_of()]
    found = sparse_roi_align(maps, torch.tensor([[0.0, 3, 4, 50, 60]] * 3), torch.tensor([0, 1, 2]), STRIDES, 7)
    assert found.dtype is torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert sparse_roi_align(maps, torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), STRIDES, 7).shape == (0, 4, 7, 7)
