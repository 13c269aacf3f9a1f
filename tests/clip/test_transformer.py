"""The plain ViT and EVA-02 against naive arithmetic, to 1e-5 in fp32."""

import pytest
import torch
from torch import Tensor

from clipself_d2.clip.dense_modes import DENSE_MODES

from .guide import MeanColors
from .naive import NaiveEVA, NaiveViT

PAPER = ["no_attn", "full"]
SIZES = [(32, 32), (24, 48), (56, 32)]
FAMILIES = ["tiny-vit", "tiny-vit-quickgelu", "tiny-vit-layerscale", "tiny-eva"]


def naive_tower(name: str, state: dict[str, Tensor]) -> NaiveViT:
    if name == "tiny-eva":
        return NaiveEVA(state, heads=2)
    return NaiveViT(state, heads=4 if "layerscale" in name else 2, quick="quickgelu" in name)


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp(min=1)
    torch.testing.assert_close(ours.double() / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.fixture(params=FAMILIES)
def pair(request, towers):
    tower, _ = towers(request.param)
    tower.hold_frozen("guide", MeanColors(tower.stride))
    return tower.requires_grad_(False), naive_tower(request.param, tower.state_dict())


@pytest.mark.parametrize(
    ("size", "mode"), [(size, mode) for size in SIZES for mode in DENSE_MODES if size == SIZES[1] or mode in PAPER]
)
def test_dense_map_and_blocks_equal_naive_arithmetic(pair, size, mode):
    tower, twin = pair
    images = torch.randn(2, 3, *size)
    dense, blocks = tower.features(images, [2, 0], mode)
    for n, image in enumerate(images):
        assert_equal(dense[n], twin.dense(image, mode))
        tokens = twin.run(image, mode)
        for ours, number in zip(blocks, [2, 0], strict=True):
            assert_equal(ours[n].flatten(1).T, tokens[number][1:])


@pytest.mark.parametrize("size", SIZES)
def test_image_embedding_equals_naive_arithmetic(pair, size):
    tower, twin = pair
    images = torch.randn(2, 3, *size)
    assert_equal(tower.image_embeddings(images), torch.stack([twin.image(image) for image in images]))


@pytest.mark.parametrize("size", SIZES[:2])
def test_masked_embeddings_equal_one_masked_sequence(pair, size):
    tower, twin = pair
    images = torch.randn(2, 3, *size)
    masks = [torch.rand(count, size[0] // 8, size[1] // 8) < 0.3 for count in (3, 1)]
    masks[0][1] = False  # an empty region sees the class token alone
    for ours, image, mask in zip(tower.masked_embeddings(images, masks), images, masks, strict=True):
        assert_equal(ours, twin.masked(image, list(mask)))


def test_real_eva_uses_sixteen_frequencies_and_its_native_scale():
    """Facts of the released model: head of 64 channels, positions rescaled to 16, half for rows, half for columns."""
    from clipself_d2.clip.positions import rotary_table

    table = rotary_table((4, 6), 64, (16, 16), torch.device("cpu")).double()
    assert table.shape == (25, 32, 2)
    assert torch.equal(table[0], torch.tensor([1.0, 0.0], dtype=torch.double).expand(32, 2))
    frequencies = 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    for row in range(4):
        for column in range(6):
            angles = torch.cat([row / 4 * 16 * frequencies, column / 6 * 16 * frequencies])
            expected = torch.stack([angles.cos(), angles.sin()], dim=-1)
            torch.testing.assert_close(table[1 + row * 6 + column], expected, atol=2e-6, rtol=0)
