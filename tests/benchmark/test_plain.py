import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import to_pil_image

from clipself_d2.benchmark import plain
from clipself_d2.clip import build_image_tower
from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.regions import crop_and_resize, grid_boxes, letterbox


def photograph(height=90, width=120):
    small = torch.randint(0, 256, (1, 3, height // 10, width // 10)).float()
    return F.interpolate(small, (height, width), mode="bilinear")[0].to(torch.uint8)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_is_torchs(mask):
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    seen = torch.rand(2, 1, 5, 7) > 0.5
    seen[..., 0] = True
    seen = {None: None, "bool": seen, "float": torch.randn(5, 7)}[mask]
    ours, torchs = (f(query, key, value, attn_mask=seen) for f in (plain.attention, F.scaled_dot_product_attention))
    torch.testing.assert_close(ours, torchs)
    gradients = (torch.autograd.grad(x.square().sum(), (query, key, value)) for x in (ours, torchs))
    torch.testing.assert_close(*gradients)


def test_no_fused_kernel_runs_inside_and_all_is_as_before_outside():
    layer, x = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(1, 4, 8)
    before, fast = F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()

    def kernels() -> set[str]:
        with torch.no_grad(), torch.profiler.profile() as profile:
            layer(x, x, x, need_weights=False)
            F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return {event.key for event in profile.key_averages() if "attention" in event.key}

    assert kernels()
    with pytest.raises(KeyError), plain.naive_attention():
        assert not kernels()
        raise KeyError
    assert F.scaled_dot_product_attention is before
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_pictures_are_ours():
    image, box = photograph(), torch.tensor([[10.0, 5.5, 70.2, 80.0]])
    picture = to_pil_image(image)
    assert (plain.crop(picture, box[0].tolist(), 64) - crop_and_resize(image, box, 64)[0]).abs().max() <= 2
    assert (plain.letterbox(picture, 64) - letterbox([image], 64)[0][0]).abs().max() <= 2


def test_embeddings_are_those_of_the_tower():
    tower = build_image_tower(MODEL, WEIGHTS)
    images = [photograph(), photograph(60, 64)]
    boxes = [grid_boxes(2, 2, 90, 120), grid_boxes(1, 2, 60, 64)]
    plainly = plain.embed_crops(tower, images, boxes)
    crops = torch.cat([crop_and_resize(i, b, tower.native_size) for i, b in zip(images, boxes, strict=True)])
    with torch.no_grad():
        batched = F.normalize(tower.image_embeddings(tower.normalize(crops)), dim=-1)
    assert plainly.shape == (6, tower.embed_dim)
    assert (plainly * batched).sum(dim=-1).min() > 0.999
