"""Towers on timm's and open_clip's modules against those modules, one patch at a time."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat

from clipself_d2.clip.positions import rotary_table

TIMM = ["tiny-eva", "tiny-eva-e", "tiny-mobileclip", "tiny-mean"]


@pytest.mark.parametrize("name", TIMM)
def test_a_patch_without_attention_goes_through_the_last_block_alone(towers, name):
    tower = towers(name)[0].requires_grad_(False)
    image, trunk = torch.randn(3, 32, 32), tower.visual.trunk
    inputs = []
    trunk.blocks[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    tower.visual(image[None])
    [[tokens]] = inputs
    dense = tower.dense_embeddings(image[None])[0]
    assert len(inputs[0][0]) == 16 + tower.num_prefix
    for number, token in enumerate(tokens[tower.num_prefix :]):
        # attention over one token alone weighs its value with 1
        alone = trunk.norm(trunk.blocks[-1](token[None, None]))[:, 0]
        expected = F.normalize(tower.visual.head(trunk.head(trunk.fc_norm(alone)))[0], dim=0)
        torch.testing.assert_close(dense[:, number // 4, number % 4], expected, atol=1e-5, rtol=0)


def test_clipa_reads_each_patch_as_its_mean(towers):
    tower = towers("tiny-clipa")[0].requires_grad_(False)
    image, visual = torch.randn(3, 32, 32), tower.visual
    tokens = visual._embeds(image[None])
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    dense = tower.dense_embeddings(image[None])[0]
    for number, token in enumerate(tokens[0, 1:]):
        expected = F.normalize((visual.ln_post(last(token[None, None])) @ visual.proj)[0, 0], dim=0)
        torch.testing.assert_close(dense[:, number // 4, number % 4], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["tiny-mean", "tiny-clipa"])
def test_the_mean_over_a_region_is_its_masked_embedding(towers, name):
    tower = towers(name)[0].requires_grad_(False)
    image, masks = torch.randn(1, 3, 32, 32), torch.rand(3, 4, 4) < 0.4
    masks[1] = False
    [embeddings] = tower.masked_embeddings(image, [masks])
    [block] = tower.features(image, [2], "full").blocks
    for embedding, mask in zip(embeddings, masks, strict=True):
        seen = block[0].flatten(1).T[mask.flatten() if mask.any() else slice(None)]
        expected = tower.project_pooled(tower.final_norm(seen).mean(dim=0))
        torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("offset", "indexing"), [(0.0, "ij"), (1.0, "xy")])
def test_rotary_tables_are_timms_at_any_size(offset, indexing):
    rope = RotaryEmbeddingCat(
        32, in_pixels=False, ref_feat_shape=(6, 6), grid_offset=offset, grid_indexing=indexing, feat_shape=None
    )
    sin, cos = rope.get_embed([3, 5]).chunk(2, dim=-1)
    table = rotary_table((3, 5), 32, (6, 6), torch.device("cpu"), offset, indexing)
    torch.testing.assert_close(table[1:], torch.stack([cos[:, ::2], sin[:, ::2]], dim=-1))


def test_batch_norms_of_a_stem_stay_while_it_trains(towers):
    tower, _ = towers("tiny-mobileclip")
    images = torch.randn(2, 3, 32, 32)
    expected = tower.dense_embeddings(images)
    before = {key: value.clone() for key, value in tower.state_dict().items() if "running" in key}
    torch.testing.assert_close(tower.train().dense_embeddings(images), expected)
    assert before and all(torch.equal(tower.state_dict()[key], value) for key, value in before.items())
