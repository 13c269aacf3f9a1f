import pytest
import torch
import torch.nn.functional as F

from clipself_d2.semantic.decoder import GuidedConv, UpBlock, UpsamplingDecoder


def test_guidance_is_concatenated_to_the_features_of_every_class():
    conv = GuidedConv(4, 3, 5)
    features, guidance = torch.randn(6, 4, 5, 5), torch.randn(2, 3, 5, 5)
    together = torch.cat([features, guidance.repeat_interleave(3, dim=0)], dim=1)
    expected = F.conv2d(together, conv.weight, padding=1)
    assert torch.allclose(conv(features, guidance), expected, atol=1e-5)


def test_a_block_doubles_the_resolution():
    block = UpBlock(8, 3, 6)
    assert block.up.weight.shape == (8, 5, 2, 2)  # channels for the guidance are left free
    assert block(torch.randn(4, 8, 3, 4), torch.randn(2, 3, 6, 8)).shape == (4, 6, 6, 8)


@pytest.mark.parametrize("dims", [(6,), (6, 4)])
def test_logits_of_every_class_are_decoded_alone(dims):
    """Except through the image: the logits of a class do not depend on the others."""
    count = len(dims)
    decoder = UpsamplingDecoder(10, 8, dims, (5, 5)[:count], (3, 2)[:count])
    x, maps = torch.randn(2, 3, 4, 5, 8), [torch.randn(2, 10, 4, 5) for _ in dims]
    logits = decoder(x, maps)
    assert decoder.scale == 2**count
    assert logits.shape == (2, 3, 4 * decoder.scale, 5 * decoder.scale)
    for t in range(3):
        assert torch.allclose(decoder(x[:, t : t + 1], maps)[:, 0], logits[:, t], atol=1e-4)
    flipped = [m.flip(-1) for m in maps]
    assert not torch.allclose(decoder(x, flipped), logits, atol=1e-4)


def test_another_number_of_maps_is_refused():
    decoder = UpsamplingDecoder(10, 8, (6, 4), (5, 5), (3, 2))
    with pytest.raises(ValueError, match="zip"):
        decoder(torch.randn(1, 2, 3, 3, 8), [torch.randn(1, 10, 3, 3)])
