"""Windows, guided layers and attentions against loops over every pair of locations or classes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clipself_d2.semantic.aggregation import (
    ClassAttention,
    CostAggregator,
    GuidedLinear,
    WindowBlock,
    linear_attention,
)
from clipself_d2.semantic.windows import from_windows, to_windows, window_mask

SIDES = st.integers(1, 9)


@given(SIDES, SIDES, st.integers(1, 4), st.booleans())
def test_windows_are_cut_and_put_together(height, width, window, shifted):
    shift = window // 2 if shifted else 0
    x = torch.arange(2.0 * height * width * 3).view(2, height, width, 3)
    assert torch.equal(from_windows(to_windows(x, window, shift), (height, width), window, shift), x)


def cell(row, column, window, shift):
    """The window that a location of an endless map lies in."""
    return (row - shift) // window, (column - shift) // window


def together(height, width, window, shift):
    places = [(y, x) for y in range(height) for x in range(width)]
    return torch.tensor([[cell(*a, window, shift) == cell(*b, window, shift) for b in places] for a in places])


@given(SIDES, SIDES, st.integers(1, 4), st.booleans())
def test_only_neighbors_of_a_window_attend_to_each_other(height, width, window, shifted):
    """Every location carries its number; who sees whom is read off the windows and their mask."""
    shift = window // 2 if shifted else 0
    numbers = torch.arange(1.0, height * width + 1).view(1, height, width, 1)
    rows = to_windows(numbers, window, shift)[:, 0, :, 0].long()
    mask = window_mask((height, width), window, shift, numbers.device)
    mask = torch.ones(*rows.shape, rows.shape[1], dtype=torch.bool) if mask is None else mask
    seen = torch.zeros(height * width + 1, height * width + 1, dtype=torch.bool)
    for members, visible in zip(rows, mask, strict=True):
        for i, a in enumerate(members):
            for j, b in enumerate(members):
                seen[a, b] |= bool(visible[i, j])
    assert mask.any(dim=-1).all()  # a row that sees nothing would be no number
    assert not seen[0, 1:].any() and not seen[1:, 0].any()  # what fills the map up
    assert torch.equal(seen[1:, 1:], together(height, width, window, shift))


def test_guidance_is_concatenated():
    layer = GuidedLinear(4, 3, 5)
    x, guidance = torch.randn(2, 6, 4), torch.randn(2, 1, 3)
    expected = F.linear(torch.cat([x, guidance.expand(-1, 6, -1)], dim=-1), layer.weight, layer.bias)
    assert torch.allclose(layer(x, guidance), expected, atol=1e-6)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 3)])
def test_a_window_block_is_attention_among_the_locations_of_a_window(size, shifted):
    block = WindowBlock(8, 4, heads=2, window=3, shifted=shifted)
    x, guidance = torch.randn(2, 3, *size, 8), torch.randn(2, *size, 4)
    shift = 1 if shifted and min(size) > 3 else 0
    hidden = ~together(*size, 3, shift)
    result = block(x, guidance)
    for b in range(2):
        for t in range(3):
            tokens, guiding = x[b, t].flatten(0, 1), guidance[b].flatten(0, 1)
            normed = block.norm1(tokens)
            queries, keys = F.linear(
                torch.cat([normed, guiding], 1), block.queries_keys.weight, block.queries_keys.bias
            ).split(8, dim=1)
            values, heads = block.values(normed), []
            for h in (slice(0, 4), slice(4, 8)):
                scores = (queries[:, h] @ keys[:, h].T / 2).masked_fill(hidden, float("-inf"))
                heads.append(scores.softmax(dim=1) @ values[:, h])
            tokens = tokens + block.out(torch.cat(heads, dim=1))
            tokens = tokens + block.mlp(block.norm2(tokens))
            assert torch.allclose(result[b, t].flatten(0, 1), tokens, atol=1e-5)


def test_linear_attention_is_a_weighted_mean():
    query, key, value = torch.randn(3, 2, 5, 3, 4).unbind()
    result = linear_attention(query, key, value)
    for b in range(2):
        for place in range(3):
            for t in range(5):
                weights = [
                    float(((F.elu(query[b, t, place]) + 1) * (F.elu(key[b, s, place]) + 1)).sum()) for s in range(5)
                ]
                expected = sum(w * value[b, s, place] for s, w in enumerate(weights)) / sum(weights)
                assert torch.allclose(result[b, t, place], expected, atol=1e-4)


def test_pooling_is_of_training_alone():
    layer = ClassAttention(8, 4, heads=2, pooling=2)
    x, guidance = torch.randn(2, 3, 4, 4, 8), torch.randn(2, 3, 4)
    fine = ClassAttention(8, 4, heads=2, pooling=1)
    fine.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x, guidance), fine.train()(x, guidance))
    means = x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    grown = F.interpolate(
        (fine(means, guidance) - means).flatten(0, 1).permute(0, 3, 1, 2), (4, 4), mode="bilinear", align_corners=True
    )
    expected = x + grown.permute(0, 2, 3, 1).view_as(x)
    assert torch.allclose(layer.train()(x, guidance), expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_missing_classes_are_learned_tokens(training):
    """Against the same layer on a list that is really filled up with them."""
    layer = ClassAttention(8, 4, heads=2, pooling=2, padded_classes=7).train(training)
    nn.init.normal_(layer.padding)
    nn.init.normal_(layer.padding_guidance)
    plain = ClassAttention(8, 4, heads=2, pooling=2).train(training)
    plain.load_state_dict(layer.state_dict(), strict=False)
    for classes in (1, 3, 7, 9):
        x, guidance = torch.randn(2, classes, 4, 6, 8), torch.randn(2, classes, 4)
        missing = max(0, 7 - classes)
        full = torch.cat([x, layer.padding.expand(2, missing, 4, 6, 8)], dim=1)
        full_guidance = torch.cat([guidance, layer.padding_guidance.expand(2, missing, 4)], dim=1)
        result = layer(x, guidance)
        assert torch.allclose(result, plain(full, full_guidance)[:, :classes], atol=1e-5)
        assert torch.allclose(result, plain(x, guidance), atol=1e-5) == (classes >= 7)


@pytest.fixture
def aggregator():
    return CostAggregator(6, 8, 4, layers=2, heads=2, window=3).eval()


def inputs(classes, size=(5, 7)):
    return torch.randn(2, classes, *size), torch.randn(2, 6, *size), torch.randn(2, classes, 6)


def test_the_order_of_classes_does_not_matter(aggregator):
    cost, dense, text = inputs(5)
    order = torch.tensor([3, 0, 4, 2, 1])
    result = aggregator(cost, dense, text)
    assert result.shape == (2, 5, 5, 7, 8)
    assert torch.allclose(aggregator(cost[:, order], dense, text[:, order]), result[:, order], atol=1e-5)


def test_classes_are_compared_with_each_other_and_with_the_image(aggregator):
    cost, dense, text = inputs(4)
    result = aggregator(cost, dense, text)
    other = cost.clone()
    other[:, 3] += 1
    assert not torch.allclose(aggregator(other, dense, text)[:, 0], result[:, 0], atol=1e-4)
    assert not torch.allclose(aggregator(cost, dense.flip(2), text), result, atol=1e-4)
    assert not torch.allclose(aggregator(cost, dense, text.flip(1)), result, atol=1e-4)


def test_any_number_of_classes(aggregator):
    for classes in (1, 2, 30):
        assert aggregator(*inputs(classes)).shape[1] == classes
