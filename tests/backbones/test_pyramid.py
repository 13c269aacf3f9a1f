import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipself_d2.backbones.pyramid import FPNPyramid, SimplePyramid, resample_and_project, resampler
from clipself_d2.errors import InputError


def deconvolution(x, layer):
    """Transposed convolution, 2 x 2 of stride 2: every input location paints four output locations of its own."""
    out = x.new_zeros(len(x), layer.out_channels, 2 * x.shape[2], 2 * x.shape[3])
    for dy in (0, 1):
        for dx in (0, 1):
            out[:, :, dy::2, dx::2] = torch.einsum("bchw,cd->bdhw", x, layer.weight[:, :, dy, dx])
    return out + layer.bias[:, None, None]


def convolution(x, layer):
    """A square convolution of stride 1, as a sum over its taps."""
    size = layer.kernel_size[0]
    padded = F.pad(x, (size // 2,) * 4)
    height, width = x.shape[2:]
    return sum(
        torch.einsum("bchw,dc->bdhw", padded[:, :, dy : dy + height, dx : dx + width], layer.weight[:, :, dy, dx])
        for dy in range(size)
        for dx in range(size)
    ) + (0 if layer.bias is None else layer.bias[:, None, None])


def test_four_times_finer_is_two_deconvolutions_with_norm_and_gelu_between():
    up, channels = resampler(6, 4, "BN")
    up[1].running_mean.normal_()
    up.eval()
    x = torch.randn(2, 6, 3, 5)
    first, norm, gelu, second = up
    hidden = deconvolution(x, first)
    hidden = (hidden - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    assert isinstance(gelu, nn.GELU) and channels == 6
    torch.testing.assert_close(up(x), deconvolution(hidden, second))


def test_twice_finer_the_same_and_coarser():
    x = torch.randn(2, 6, 4, 7)
    up, _ = resampler(6, 2, "BN")
    assert len(up) == 1  # no norm, no activation
    torch.testing.assert_close(up(x), deconvolution(x, up[0]))
    assert torch.equal(resampler(6, 1, "BN")[0](x), x)
    pooled = resampler(6, 0.5, "BN")[0](x)
    assert torch.equal(pooled, torch.stack([x[:, :, dy::2, dx:6:2] for dy in (0, 1) for dx in (0, 1)]).amax(dim=0))


@pytest.mark.parametrize("scale", [3, 0, -2, 0.3])
def test_other_scales_are_refused(scale):
    with pytest.raises(InputError, match=f"pyramid scale {scale}: must be a power of two"):
        FPNPyramid(4, (scale, 1))


def test_fpn_arithmetic():
    """Lateral, nearest addition from above, output, and every second location of the last."""
    pyramid = FPNPyramid(6, channels=8, norm="")
    maps = [torch.randn(2, 6, 4, 4) for _ in range(4)]
    laterals = [
        convolution(resample(x), lateral)
        for x, resample, lateral in zip(maps, pyramid.resamplers, pyramid.laterals, strict=True)
    ]
    sums = [laterals[3]]
    for lateral in reversed(laterals[:3]):
        sums.append(lateral + sums[-1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    expected = [convolution(x, out) for x, out in zip(reversed(sums), pyramid.outputs, strict=True)]
    expected.append(expected[-1][:, :, ::2, ::2])
    levels = pyramid(maps)
    assert [x.shape[-1] for x in levels] == [16, 8, 4, 2, 1]
    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [4, 2, 1, 0.5])
@pytest.mark.parametrize("norm", ["", "BN"])
def test_up_sampling_and_projection_in_one_are_the_two(scale, norm):
    """Values and all gradients, with the statistics of the batch."""
    pyramid = FPNPyramid(6, (scale,), channels=5, norm=norm)
    resample, lateral = pyramid.resamplers[0], pyramid.laterals[0]
    x = torch.randn(2, 6, 4, 4)
    parameters = [*resample.parameters(), *lateral.parameters()]
    weights = torch.randn_like(lateral(resample(x)))
    gradients = []
    for project in (lambda: resample_and_project(x, resample, lateral), lambda: lateral(resample(x))):
        out = project()
        gradients.append([out, *torch.autograd.grad((out * weights).sum(), parameters)])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_every_convolution_of_the_fpn_has_a_norm_and_no_activation():
    pyramid = FPNPyramid(6, channels=8, norm="BN")
    convs = [*pyramid.laterals, *pyramid.outputs]
    assert [conv.kernel_size for conv in convs] == [(1, 1)] * 4 + [(3, 3)] * 4
    assert all(
        isinstance(conv.norm, nn.BatchNorm2d) and conv.bias is None and conv.activation is None for conv in convs
    )
    assert (pyramid.num_inputs, pyramid.channels, pyramid.scales) == (4, 8, (4, 2, 1, 0.5, 0.25))


def test_the_default_norm_is_synchronised():
    assert isinstance(FPNPyramid(6, channels=8).laterals[0].norm, nn.SyncBatchNorm)


@pytest.mark.parametrize("kind", [FPNPyramid, SimplePyramid])
def test_maps_of_any_size(kind):
    pyramid = kind(8, channels=8, norm="BN")
    levels = pyramid([torch.randn(1, 8, 5, 3)] * pyramid.num_inputs)
    assert [tuple(x.shape[1:]) for x in levels] == [(8, 20, 12), (8, 10, 6), (8, 5, 3), (8, 2, 1), (8, 1, 1)]


@pytest.mark.parametrize("kind", [FPNPyramid, SimplePyramid])
def test_every_parameter_learns(kind):
    pyramid = kind(8, channels=8, norm="BN")
    levels = pyramid([torch.randn(2, 8, 4, 4) for _ in range(pyramid.num_inputs)])
    sum(x.square().sum() for x in levels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in pyramid.named_parameters() if "bias" not in n)
    assert all(p.grad is not None for p in pyramid.parameters())


def test_the_simple_pyramid_is_vitdets():
    """Up-samplers that halve the channels, layer norms, and no way from one level to another."""
    pyramid = SimplePyramid(32, channels=8)
    widths = [[m.out_channels for m in stage[0] if hasattr(m, "out_channels")] for stage in list(pyramid.stages)[:2]]
    assert widths == [[16, 8], [16]]
    assert [type(stage[0]).__name__ for stage in pyramid.stages] == [
        "Sequential",
        "Sequential",
        "Identity",
        "MaxPool2d",
    ]
    assert all(type(conv.norm).__name__ == "LayerNorm" for stage in pyramid.stages for conv in stage[1:])
    levels = pyramid([torch.randn(1, 32, 4, 4)])
    assert [tuple(x.shape[1:]) for x in levels] == [(8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2), (8, 1, 1)]
    levels[1].sum().backward()
    assert [any(p.grad is not None for p in stage.parameters()) for stage in pyramid.stages] == [
        False,
        True,
        False,
        False,
    ]
