"""Attention by blocks against its formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from clipself_d2.clip import attention
from clipself_d2.clip.attention import attend


def formula(query, key, value):
    """In double precision, with its gradients by autograd."""
    scores = query.double() @ key.double().mT / math.sqrt(query.shape[-1])
    return scores.softmax(dim=-1) @ value.double()


def inputs(batch, heads, rows, columns, dim, dtype):
    shapes = (batch, heads, rows, dim), (batch, heads, columns, dim), (batch, heads, columns, dim)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([8, 20]),
    st.sampled_from([1, 500, 2**22]),
)
def test_blocks_add_up_to_the_formula(batch, heads, rows, columns, dim, most):
    torch.manual_seed(rows * 91 + columns)
    before, attention._MAX_SCORES = attention._MAX_SCORES, most
    try:
        tensors = inputs(batch, heads, rows, columns, dim, torch.bfloat16)
        ours = attend(*tensors)
        weight = torch.randn(ours.shape)
        gradients = torch.autograd.grad((ours.float() * weight).sum(), tensors)
        expected = formula(*tensors)
        expected_gradients = torch.autograd.grad((expected * weight).sum(), tensors)
    finally:
        attention._MAX_SCORES = before
    assert ours.dtype == torch.bfloat16
    for mine, theirs in zip((ours, *gradients), (expected, *expected_gradients), strict=True):
        # bfloat16 has 8 significant bits
        assert (mine.double() - theirs.double()).norm() <= 0.02 * theirs.double().norm() + 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_are_exact(dtype):
    tensors = inputs(2, 3, 17, 23, 16, dtype)
    torch.testing.assert_close(attend(*tensors).double(), formula(*tensors), atol=1e-5, rtol=1e-5)


def test_a_mask_hides():
    query, key, value = inputs(1, 2, 5, 7, 8, torch.bfloat16)
    seen = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    seen[..., 4:] = False
    expected = formula(query, key[:, :, :4], value[:, :, :4])
    torch.testing.assert_close(attend(query, key, value, seen).double(), expected, atol=0.03, rtol=0.03)


def test_heads_and_rows_may_lie_anywhere_in_memory():
    """Towers hand over transposed views."""
    query, key, value = (torch.randn(2, 9, 3, 8).bfloat16().transpose(1, 2) for _ in range(3))
    same = attend(*(x.contiguous() for x in (query, key, value)))
    assert torch.equal(attend(query, key, value), same)


def test_scores_are_never_held_all_at_once(monkeypatch):
    monkeypatch.setattr(attention, "_MAX_SCORES", 2**12)
    held = []
    blocks = attention._blocks

    def spy(*args):
        for block in blocks(*args):
            held.append(sum(x.numel() for x in block[2]))
            yield block

    monkeypatch.setattr(attention, "_blocks", spy)
    tensors = inputs(1, 4, 300, 50, 8, torch.bfloat16)
    attend(*tensors).sum().backward()
    assert max(held) <= 3 * 2**12


def test_activation_checkpointing_changes_nothing():
    tensors = inputs(1, 2, 30, 30, 8, torch.bfloat16)
    plain = torch.autograd.grad(attend(*tensors).sum(), tensors)
    again = torch.autograd.grad(checkpoint(attend, *tensors, use_reentrant=False).sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_inference_mode_and_autocast():
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        query, key, value = (torch.randn(1, 2, 6, 8).bfloat16() for _ in range(3))
        ours = attend(query, key, value)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), formula(query, key, value), atol=0.03, rtol=0.03)
