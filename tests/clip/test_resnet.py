"""The CLIP ResNet's pool against a loop, location by location."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.errors import InputError

from .naive import attention, linear, positions


@pytest.fixture
def tower(towers):
    return towers("tiny-resnet")[0].requires_grad_(False)


def last_stage(tower, image):
    """The trunk up to its pool, by open_clip's own forward."""
    v = tower.visual
    return v.layer4(v.layer3(v.layer2(v.layer1(v.stem(image[None])))))[0].double()


def pool_tokens(state, stage):
    rows = stage.flatten(1).T
    tokens = torch.cat([rows.mean(0, keepdim=True), rows])
    return tokens + positions(
        state["positional_embedding"], math.isqrt(len(state["positional_embedding"]) - 1), stage.shape[1:]
    )


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_every_path_equals_a_loop(tower, size):
    state = {k: v.double() for k, v in tower.visual.attnpool.state_dict().items()}
    images = torch.randn(2, 3, *size)
    masks = [torch.rand(2, size[0] // 32, size[1] // 32) < 0.5 for _ in images]
    value, full = tower.dense_embeddings(images, "no_attn"), tower.dense_embeddings(images, "full")
    whole, masked = tower.image_embeddings(images), tower.masked_embeddings(images, masks)
    for n, image in enumerate(images):
        stage = last_stage(tower, image)
        for i, location in enumerate(stage.flatten(1).T):
            row = linear(state, "c_proj", linear(state, "v_proj", location))
            torch.testing.assert_close(value[n].flatten(1)[:, i].double(), row / row.norm(), atol=1e-5, rtol=0)
        tokens = pool_tokens(state, stage)
        q, k, v = (linear(state, f"{name}_proj", tokens) for name in "qkv")
        heads = tower.visual.attnpool.num_heads
        out = linear(state, "c_proj", attention(q, k, v, heads))
        torch.testing.assert_close(full[n].flatten(1).T.double(), F.normalize(out[1:], dim=1), atol=1e-5, rtol=0)
        torch.testing.assert_close(whole[n].double(), out[0], atol=1e-5, rtol=1e-5)
        allowed = torch.cat([torch.ones(2, 1, dtype=torch.bool), masks[n].flatten(1)], dim=1)
        regions = linear(state, "c_proj", attention(q[:1].repeat(2, 1), k, v, heads, allowed))
        torch.testing.assert_close(masked[n].double(), regions, atol=1e-5, rtol=1e-5)


def test_blocks_are_the_four_stages(tower):
    image = torch.randn(1, 3, 64, 96)
    maps = tower.features(image, [0, 1, 2, 3]).blocks
    assert [m.shape[1:] for m in maps] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
    torch.testing.assert_close(maps[3][0].double(), last_stage(tower, image[0]), atol=1e-5, rtol=1e-5)


def test_its_blocks_have_no_attention_to_train(tower):
    with pytest.raises(InputError, match="the blocks of this image tower have no attention to train"):
        tower.query_value_weights()
