"""The reference's arithmetic against ours and PyTorch's."""

import pytest
import reference
import torch
import torch.nn.functional as F

from clipself_d2.clip import build_image_tower
from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.regions import crop_and_resize, grid_boxes, letterbox, pool_masks


def smooth_image(height=90, width=120):
    small = torch.randint(0, 256, (1, 3, height // 10, width // 10)).float()
    return F.interpolate(small, (height, width), mode="bilinear")[0].to(torch.uint8)


def test_no_fused_kernel_runs_inside_and_all_is_as_before_outside():
    layer, x = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(1, 4, 8)
    fast = torch.backends.mha.get_fastpath_enabled()

    def kernels() -> set[str]:
        with torch.no_grad(), torch.profiler.profile() as profile:
            layer(x, x, x, need_weights=False)
            F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return {event.key for event in profile.key_averages() if "flash" in event.key or "native_multi" in event.key}

    assert kernels()
    with pytest.raises(KeyError), reference.plain_attention():
        assert not kernels()
        raise KeyError
    assert kernels()
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_attention_is_that_of_the_papers():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    with reference.plain_attention():
        found = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, (q @ k.mT / 8**0.5).softmax(dim=-1) @ v)


def test_crops_and_letterboxes_are_ours():
    image, box = smooth_image(), torch.tensor([[10.0, 5.5, 70.2, 80.0]])
    assert (reference.crop(image, box[0].tolist(), 64) - crop_and_resize(image, box, 64)[0]).abs().max() <= 2
    assert (reference.letterbox(image, 64) - letterbox([image], 64)[0][0]).abs().max() <= 2


def test_embeddings_are_those_of_the_tower():
    tower = build_image_tower(MODEL, WEIGHTS)
    images = [smooth_image(), smooth_image(60, 64)]
    boxes = [grid_boxes(2, 2, 90, 120), grid_boxes(1, 2, 60, 64)]
    found = reference.embed_crops(tower, images, boxes)
    crops = torch.cat([crop_and_resize(i, b, tower.native_size) for i, b in zip(images, boxes, strict=True)])
    with torch.no_grad():
        expected = F.normalize(tower.image_embeddings(tower.normalize(crops)), dim=-1)
    assert found.shape == (6, tower.embed_dim)
    assert (found * expected).sum(dim=-1).min() > 0.999


def test_masks_are_pooled_as_ours():
    dense = F.normalize(torch.randn(1, 5, 8, 8), dim=1)
    masks = torch.zeros(3, 6, 8)
    masks[0, :3, 2:5], masks[1, 4:, :] = 1, 1  # the last is empty
    found, valid = reference.pool_masks(dense, masks * 2 - 1, (60, 80), "bilinear")
    cells = F.pad(masks, (0, 0, 0, 2))
    assert valid.tolist() == [True, True, False]
    torch.testing.assert_close(found[:2], pool_masks(dense[0], cells)[:2])
