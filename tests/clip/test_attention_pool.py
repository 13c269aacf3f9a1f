"""Dense maps of attention pools against the pools' own modules, one patch at a time."""

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.clip.positions import resize_position_embedding


@pytest.fixture(params=["tiny-pooled", "tiny-pe"])
def tower(towers, request):
    return towers(request.param)[0].requires_grad_(False)


def tokens_of(tower, image):
    """The trunk's last tokens after its norm, N x D, by timm's own forward where the size is the native one."""
    trunk = tower.visual.trunk
    assert image.shape == (3, 32, 32)
    return trunk.forward_features(image[None])[0]


def test_a_patch_without_attention_is_its_value_through_the_rest_of_the_pool(tower):
    image = torch.randn(3, 32, 32)
    pool, dense = tower.visual.trunk.attn_pool, tower.dense_embeddings(image[None])[0]
    for number, token in enumerate(tokens_of(tower, image)[tower.num_prefix :]):
        # attention over one token alone weighs it with 1
        expected = F.normalize(tower.visual.trunk.head(pool(token[None, None])[0]), dim=0)
        torch.testing.assert_close(dense[:, number // 4, number % 4], expected, atol=1e-5, rtol=0)


def test_in_full_mode_each_patch_is_the_query(tower):
    image = torch.randn(3, 32, 32)
    pool, dense = tower.visual.trunk.attn_pool, tower.dense_embeddings(image[None], "full")[0]
    tokens = tokens_of(tower, image)
    for number, token in enumerate(tokens[tower.num_prefix :]):
        with torch.no_grad():
            pool.latent.copy_(token[None, None])
        expected = F.normalize(tower.visual.trunk.head(pool(tokens[None])[0]), dim=0)
        torch.testing.assert_close(dense[:, number // 4, number % 4], expected, atol=1e-5, rtol=0)


def test_masked_queries_attend_to_their_patches_and_a_query_that_would_see_nothing_to_all(tower):
    image = torch.randn(3, 32, 32)
    masks = torch.rand(3, 4, 4) < 0.4
    masks[1] = False
    [embeddings] = tower.masked_embeddings(image[None], [masks])
    pool, tokens = tower.visual.trunk.attn_pool, tokens_of(tower, image)
    for embedding, mask in zip(embeddings, masks, strict=True):
        visible = torch.cat([torch.ones(tower.num_prefix, dtype=torch.bool), mask.flatten()])
        seen = tokens[visible] if visible.any() else tokens
        expected = tower.visual.trunk.head(pool(seen[None])[0])
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)


def test_cocas_patches_go_through_the_values_of_its_pool(towers):
    tower = towers("tiny-coca")[0].requires_grad_(False)
    image, visual = torch.randn(3, 32, 32), tower.visual
    dense = tower.dense_embeddings(image[None])[0]
    for number, token in enumerate(visual.transformer(visual._embeds(image[None]))[0, 1:]):
        expected = F.normalize((visual.ln_post(visual.attn_pool(token[None, None])) @ visual.proj)[0, 0], dim=0)
        torch.testing.assert_close(dense[:, number // 4, number % 4], expected, atol=1e-5, rtol=0)


def test_positions_are_resized_to_the_map(towers):
    tower = towers("tiny-pooled")[0]
    trunk, images = tower.visual.trunk, torch.randn(1, 3, 24, 48)
    native = trunk.pos_embed[0]
    resized = resize_position_embedding(torch.cat([native[:1], native]), (4, 4), (3, 6))[1:]
    tokens = trunk.patch_embed.proj(images).flatten(2).mT + resized
    for block in trunk.blocks:
        tokens = block(tokens)
    [block] = tower.features(images, [2]).blocks
    torch.testing.assert_close(block.flatten(2).mT, tokens)
