"""The dense map without the letterbox's padding."""

import json

import pytest
import torch

from clipself_d2.clip import build_image_tower
from clipself_d2.clip.positions import resize_position_embedding
from clipself_d2.errors import InputError
from clipself_d2.regions import dense_map, letterboxed_features
from tests.clip.conftest import CONFIGS

SIZES = [(48, 64), (64, 40.2), (48, 64), (64, 64), (63.9, 33)]


@pytest.fixture(scope="module")
def tower():
    import clipself_d2.miniature  # noqa: F401  (registers the model)

    torch.manual_seed(0)
    return build_image_tower("OV-Shapes-ViT-8", "random").eval()


def test_square_is_the_towers_own_map(tower):
    pixels = torch.randn(2, 3, 64, 64)
    expected = tower.dense_embeddings(pixels)
    torch.testing.assert_close(dense_map(tower, pixels, [(48, 64), (64, 8)], skip_padding=False), expected)


def test_tight_leaves_out_the_patches_without_photograph(tower):
    pixels = torch.randn(len(SIZES), 3, 64, 64)
    ours = dense_map(tower, pixels, SIZES)
    assert ours.shape == (len(SIZES), tower.embed_dim, 8, 8)
    for dense, image, (height, width) in zip(ours, pixels, SIZES, strict=True):
        rows, columns = next(n for n in range(9) if n * 8 >= height), next(n for n in range(9) if n * 8 >= width)
        alone = tower.dense_embeddings(image[None, :, : rows * 8, : columns * 8], padded_size=64)[0]
        torch.testing.assert_close(dense[:, :rows, :columns], alone, atol=1e-5, rtol=0)
        assert not dense[:, rows:].any() and not dense[:, :, columns:].any()


def test_maps_of_blocks_lose_the_same_patches(tower):
    pixels = torch.randn(len(SIZES), 3, 64, 64)
    dense, maps = letterboxed_features(tower, pixels, SIZES, (2, 0), "full")
    torch.testing.assert_close(dense, dense_map(tower, pixels, SIZES, "full"))
    for map_, block in zip(maps, (2, 0), strict=True):
        assert map_.shape == (len(SIZES), tower.block_dim, 8, 8)
        for ours, image, (height, width) in zip(map_, pixels, SIZES, strict=True):
            rows, columns = next(n for n in range(9) if n * 8 >= height), next(n for n in range(9) if n * 8 >= width)
            features = tower.features(image[None, :, : rows * 8, : columns * 8], (block,), "full", padded_size=64)
            torch.testing.assert_close(ours[:, :rows, :columns], features.blocks[0][0], atol=1e-4, rtol=1e-4)
            assert not ours[:, rows:].any() and not ours[:, :, columns:].any()


def test_stages_of_a_resnet_have_several_cells_a_patch(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIGS["tiny-resnet"]))
    tower = build_image_tower(str(tmp_path / "tiny.json"), "random").eval()
    pixels = torch.randn(2, 3, 128, 128)
    dense, maps = letterboxed_features(tower, pixels, [(64, 128), (128, 90)], (0, 3))
    assert dense.shape[2:] == maps[1].shape[2:] == (4, 4) and maps[0].shape[2:] == (32, 32)
    assert maps[0][0, :, :16].any() and not maps[0][0, :, 16:].any() and not maps[0][1, :, :, 24:].any()


def test_an_image_that_fills_the_square_is_the_same_in_both(tower):
    pixels = torch.randn(1, 3, 64, 64)
    tight, square = (dense_map(tower, pixels, [(64, 64)], skip_padding=skip) for skip in (True, False))
    assert torch.equal(tight, square)


@pytest.mark.parametrize("skip_padding", [True, False])
def test_gradients_reach_every_image(tower, skip_padding):
    pixels = torch.randn(3, 3, 64, 64, requires_grad=True)
    dense_map(tower, pixels, [(64, 24), (24, 64), (64, 24)], skip_padding=skip_padding)[:, :, :3, :3].pow(
        3
    ).sum().backward()
    assert pixels.grad.flatten(1).abs().sum(dim=1).min() > 0


def test_places_on_the_canvas_are_those_of_the_square(tower):
    """The positions of a part are the square's, not those of a map of the part's size."""
    embedding = tower.position_embedding
    square = resize_position_embedding(embedding, tower.native_grid, (12, 12))[1:].unflatten(0, (12, 12))
    tokens, _ = tower.embed(torch.zeros(1, 3, 40, 72), padded_size=96)
    plain = tower.pre_norm(torch.cat([tower.class_token[None] + embedding[:1], square[:5, :9].flatten(0, 1)])[None])
    torch.testing.assert_close(tokens, plain, atol=1e-5, rtol=1e-5)


def test_wrong_padded_size_is_named(tower):
    pixels = torch.randn(1, 3, 64, 64)
    with pytest.raises(InputError, match="do not fit into 32"):
        tower.dense_embeddings(pixels, padded_size=32)
    with pytest.raises(InputError, match="padded_size=60: no multiple of the tower's stride 8"):
        tower.dense_embeddings(pixels, padded_size=60)
