"""The dense mode that reads a map by a guide; test_transformer.py has the arithmetic of all modes."""

import pytest
import torch
from torch import nn

from clipself_d2.clip import build_image_tower
from clipself_d2.clip.dense_modes import _say_resampled, guided_weights
from clipself_d2.errors import InputError

from .guide import MeanColors
from .naive import guided_weights as naive_weights
from .test_transformer import assert_equal, naive_tower


def test_a_guide_s_weights_equal_loops():
    features = torch.randn(2, 5, 3, 4)
    features[1] += 2  # cosines whose mean is far from 0
    weights = guided_weights(features, (3, 4))
    assert (weights == 0).any() and (weights > 0).sum() > 2 * 12
    for ours, image in zip(weights, features, strict=True):
        torch.testing.assert_close(ours.double(), naive_weights(image.flatten(1).T.double()), atol=1e-6, rtol=0)


def test_a_patch_that_resembles_none_attends_to_itself():
    assert torch.equal(guided_weights(torch.ones(1, 5, 2, 3), (2, 3)), torch.eye(6)[None])


@pytest.mark.parametrize("family", ["tiny-vit", "tiny-eva"])
def test_a_guide_of_another_grid_is_resampled_and_that_is_said(towers, family, caplog):
    tower = towers(family)[0].requires_grad_(False)
    naive = naive_tower(family, tower.state_dict())
    images = torch.randn(2, 3, 40, 24)
    tower.hold_frozen("guide", MeanColors(8))
    expected = tower.dense_embeddings(images, "proxyclip")
    tower.hold_frozen("guide", MeanColors(4))  # bilinear at half the size is the mean of 2 x 2
    _say_resampled.cache_clear()  # it is said once
    with caplog.at_level("INFO"):
        dense = tower.dense_embeddings(images, "proxyclip")
    assert "guide: its map of 10 x 6 is resampled to the tower's grid of 5 x 3" in caplog.text
    torch.testing.assert_close(dense, expected, atol=1e-5, rtol=0)
    assert_equal(dense[0], naive.dense(images[0], "proxyclip"))


def test_a_guide_moves_with_its_tower_and_is_not_in_its_weights(configs):
    guide = nn.Sequential(MeanColors(8), nn.Conv2d(3, 5, 1))
    tower = build_image_tower(configs["tiny-vit"], None, guide)
    assert tower.guide is guide and not guide.training
    assert all(name.startswith("visual.") for name in tower.state_dict())
    tower.requires_grad_(True).double().train()
    assert not guide.training
    assert all(p.dtype == torch.double and not p.requires_grad for p in guide.parameters())


def test_wrong_input(configs, towers):
    with pytest.raises(InputError, match=r"'proxyclip' needs a guide: .*TimmGuide, name: vit_base_patch8_224\.dino"):
        towers("tiny-vit")[0].check_dense_mode("proxyclip")
    with pytest.raises(InputError, match=r"^guide=dino: must be a module, such as .*TimmGuide, name: dino"):
        build_image_tower(configs["tiny-vit"], None, "dino")
    for family, modes in (("tiny-pooled", "no_attn, full"), ("tiny-coca", "no_attn"), ("tiny-resnet", "no_attn, full")):
        with pytest.raises(InputError, match=rf"{family}.*' has no dense mode that reads one, only {modes}$"):
            build_image_tower(configs[family], None, MeanColors(8))
        with pytest.raises(InputError, match=rf"'proxyclip' is unknown: use one of {modes}$"):
            towers(family)[0].check_dense_mode("proxyclip")
