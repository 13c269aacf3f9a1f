"""The dense path: letterboxed images, with and without their padding, and what is pooled from them."""

import json

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from clipself_d2.clip import build_image_tower
from clipself_d2.clip.positions import resize_position_embedding
from clipself_d2.errors import InputError
from clipself_d2.regions import LetterboxedImages, dense_features, letterbox, letterbox_images
from tests.clip.conftest import CONFIGS

SIZES = [(48, 64), (64, 40.2), (48, 64), (64, 64), (63.9, 33)]


@pytest.fixture(scope="module")
def tower():
    import clipself_d2.miniature  # noqa: F401  (registers the model)

    torch.manual_seed(0)
    return build_image_tower("OV-Shapes-ViT-8", None).eval()


def batch(sizes=SIZES, side=64, **kwargs):
    """Random pixels whose content is of the given sizes."""
    return LetterboxedImages(torch.randn(len(sizes), 3, side, side, **kwargs), [1.0] * len(sizes), sizes)


def patches(length, stride=8):
    return next(n for n in range(99) if n * stride >= length)


def test_images_of_any_size_come_to_one_square(tower):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((48, 60), (30, 20), (100, 90))]
    found = letterbox_images(tower, images, 64)
    pixels, scales = letterbox(images, 64)
    assert torch.equal(found.pixels, (pixels / 255 - tower.pixel_mean) / tower.pixel_std)
    assert found.scales == scales == [64 / 60, 64 / 30, 64 / 100]
    assert found.sizes == [(image.shape[1] * s, image.shape[2] * s) for image, s in zip(images, scales, strict=True)]


def test_another_size_of_the_square(tower):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((48, 60), (30, 20))]
    square = letterbox_images(tower, images, 64)
    small = square.resize(32)
    expected = F.interpolate(square.pixels, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(small.pixels, expected)
    assert small.scales == [32 / 60, 32 / 30]
    torch.testing.assert_close(torch.tensor(small.sizes), torch.tensor(square.sizes) / 2)


def test_reading_the_padding_gives_the_towers_own_map(tower):
    images = batch([(48, 64), (64, 8)])
    expected = tower.features(images.pixels, (1,))
    found = dense_features(tower, images, blocks=(1,), skip_padding=False)
    assert torch.equal(found.dense, expected.dense) and torch.equal(found.blocks[0], expected.blocks[0])
    assert found.stride == 8 and found.scales == images.scales and found.sizes == images.sizes


def test_patches_without_image_are_left_out(tower):
    images = batch()
    ours = dense_features(tower, images).dense
    assert ours.shape == (len(SIZES), tower.embed_dim, 8, 8)
    for dense, image, size in zip(ours, images.pixels, SIZES, strict=True):
        rows, columns = map(patches, size)
        alone = tower.dense_embeddings(image[None, :, : rows * 8, : columns * 8], padded_size=64)[0]
        torch.testing.assert_close(dense[:, :rows, :columns], alone, atol=1e-5, rtol=0)
        assert not dense[:, rows:].any() and not dense[:, :, columns:].any()


def test_maps_of_blocks_lose_the_same_patches(tower):
    images = batch()
    found = dense_features(tower, images, blocks=(2, 0), dense_mode="full")
    torch.testing.assert_close(found.dense, dense_features(tower, images, dense_mode="full").dense)
    for map_, block in zip(found.blocks, (2, 0), strict=True):
        assert map_.shape == (len(SIZES), tower.block_dim, 8, 8)
        for ours, image, size in zip(map_, images.pixels, SIZES, strict=True):
            rows, columns = map(patches, size)
            features = tower.features(image[None, :, : rows * 8, : columns * 8], (block,), "full", padded_size=64)
            torch.testing.assert_close(ours[:, :rows, :columns], features.blocks[0][0], atol=1e-4, rtol=1e-4)
            assert not ours[:, rows:].any() and not ours[:, :, columns:].any()


def test_stages_of_a_resnet_have_several_cells_per_patch(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIGS["tiny-resnet"]))
    tower = build_image_tower(str(tmp_path / "tiny.json"), None).eval()
    found = dense_features(tower, batch([(64, 128), (128, 90)], 128), blocks=(0, 3))
    assert found.dense.shape[2:] == found.blocks[1].shape[2:] == (4, 4) and found.blocks[0].shape[2:] == (32, 32)
    fine = found.blocks[0]
    assert fine[0, :, :16].any() and not fine[0, :, 16:].any() and not fine[1, :, :, 24:].any()


def test_an_image_that_fills_the_square_has_no_padding(tower):
    images = batch([(64, 64)])
    skipped, read = (dense_features(tower, images, skip_padding=skip).dense for skip in (True, False))
    assert torch.equal(skipped, read)


@pytest.mark.parametrize("skip_padding", [True, False])
def test_gradients_reach_every_image(tower, skip_padding):
    images = batch([(64, 24), (24, 64), (64, 24)], requires_grad=True)
    dense_features(tower, images, skip_padding=skip_padding).dense[:, :, :3, :3].pow(3).sum().backward()
    assert images.pixels.grad.flatten(1).abs().sum(dim=1).min() > 0


def test_boxes_are_in_pixels_of_their_own_image(tower):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((48, 60), (90, 30))]
    boxes = [torch.tensor([[3.0, 4, 40, 30]]), torch.tensor([[0.0, 0, 30, 90], [10, 20, 12, 50]])]
    features = dense_features(tower, letterbox_images(tower, images, 64))
    pooled = features.pool_boxes(boxes)
    assert pooled.shape == (3, tower.embed_dim)
    places = [(0, boxes[0][0], 64 / 60), (1, boxes[1][0], 64 / 90), (1, boxes[1][1], 64 / 90)]
    for row, (number, box, scale) in zip(pooled, places, strict=True):
        roi = torch.cat([torch.zeros(1), box * scale / 8])[None]
        expected = roi_align(features.dense[number : number + 1], roi, (1, 1), sampling_ratio=-1, aligned=True)
        torch.testing.assert_close(row, F.normalize(expected.flatten(), dim=0))


def test_masks_are_in_pixels_of_their_own_image(tower):
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((64, 64), (32, 16))]
    masks = [torch.zeros(2, 64, 64, dtype=torch.bool), torch.zeros(1, 32, 16, dtype=torch.bool)]
    masks[0][0, 8:16, :24] = masks[0][1, 4:8, :8] = masks[1][0, :8, 4:8] = True
    features = dense_features(tower, letterbox_images(tower, images, 64))
    (first, second), (third,) = features.pool_masks(masks)
    for ours, cells in (
        (first, features.dense[0][:, 1, :3]),
        (second, features.dense[0][:, 0, :1]),
        (third, features.dense[1][:, :2, 1:2].flatten(1)),  # the second image is twice as large on the square
    ):
        torch.testing.assert_close(ours, F.normalize(cells.mean(dim=1), dim=0), atol=1e-5, rtol=0)


def test_positions_are_those_of_the_square(tower):
    """A part's positions are the square's, not those of a map of the part's size."""
    embedding = tower.position_embedding
    square = resize_position_embedding(embedding, tower.native_grid, (12, 12))[1:].unflatten(0, (12, 12))
    tokens, _ = tower.embed(torch.zeros(1, 3, 40, 72), padded_size=96)
    plain = tower.pre_norm(torch.cat([tower.class_token[None] + embedding[:1], square[:5, :9].flatten(0, 1)])[None])
    torch.testing.assert_close(tokens, plain, atol=1e-5, rtol=1e-5)


def test_a_wrong_padded_size_is_named(tower):
    pixels = torch.randn(1, 3, 64, 64)
    with pytest.raises(InputError, match="do not fit into 32"):
        tower.dense_embeddings(pixels, padded_size=32)
    with pytest.raises(InputError, match="padded_size=60: not a multiple of the tower's stride 8"):
        tower.dense_embeddings(pixels, padded_size=60)
