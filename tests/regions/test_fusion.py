import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.errors import InputError
from clipself_d2.regions import fuse_scores

VARIANTS = ["fvit", "fvlm", "odise", "fcclip"]
weights = st.floats(0, 1)


@st.composite
def opinions(draw):
    """Probabilities of a head (R x (K + 1)) and of CLIP (the same), float64, and the classes seen."""
    num_regions, num_classes = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(2, num_regions, num_classes + 1)) * draw(st.sampled_from([0.1, 1, 10]))
    head, clip = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return head, clip, rng.random(num_classes) < 0.5


def fuse(head, clip, seen, *args):
    with np.errstate(divide="ignore"):
        logs = [torch.from_numpy(np.log(p)) for p in (head, clip)]
    return fuse_scores(*logs, torch.from_numpy(np.asarray(seen)), *args).numpy()


def released_fvit(head, clip, seen, alpha, beta):
    """Base and background by alpha, novel by beta."""
    out = np.zeros_like(head)
    for k in range(head.shape[1]):
        w = alpha if k == len(seen) or seen[k] else beta
        out[:, k] = head[:, k] ** (1 - w) * clip[:, k] ** w
    return out


def released_fvlm(head, clip, seen, alpha, beta):
    """The background keeps the detector's probability; the row is renormalized."""
    out = released_fvit(head, clip, seen, alpha, beta)
    out[:, -1] = head[:, -1]
    return out / out.sum(1, keepdims=True)


def released_odise(head, clip, seen, alpha, beta):
    """softmax without the void on both sides, geometric ensemble, softmax, times 1 - void, then the void."""
    p_head, p_clip = (p[:, :-1] / p[:, :-1].sum(1, keepdims=True) for p in (head, clip))
    base = p_head ** (1 - alpha) * p_clip**alpha * seen
    novel = p_head ** (1 - beta) * p_clip**beta * (1 - seen)
    fused = (base + novel) / (base + novel).sum(1, keepdims=True)
    return np.concatenate([fused * (1 - head[:, -1:]), head[:, -1:]], axis=1)


RELEASED = {"fvit": released_fvit, "fvlm": released_fvlm, "odise": released_odise, "fcclip": released_odise}


@pytest.mark.parametrize("variant", VARIANTS)
@given(opinions(), weights, weights)
def test_equals_the_released_arithmetic(variant, opinions, alpha, beta):
    expected = RELEASED[variant](*opinions, alpha, beta)
    np.testing.assert_allclose(fuse(*opinions, alpha, beta, variant), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
@given(opinions())
def test_without_weight_the_head_speaks(variant, opinions):
    np.testing.assert_allclose(fuse(*opinions, 0, 0, variant), opinions[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@given(opinions())
def test_with_full_weight_clip_speaks(variant, opinions):
    clip = opinions[1]
    fused = fuse(*opinions, 1, 1, variant)
    if variant == "fvit":
        np.testing.assert_allclose(fused, clip, rtol=1e-5, atol=1e-9)
    else:  # CLIP's shares of the classes; the background is the head's
        shares = clip[:, :-1] / clip[:, :-1].sum(1, keepdims=True)
        np.testing.assert_allclose(fused[:, :-1] / fused[:, :-1].sum(1, keepdims=True), shares, rtol=1e-4, atol=1e-7)


@given(opinions(), weights, weights)
def test_rows_sum_to_1_where_they_are_renormalised(opinions, alpha, beta):
    for variant in ("fvlm", "odise"):
        np.testing.assert_allclose(fuse(*opinions, alpha, beta, variant).sum(1), 1, rtol=1e-5)
    # ... while unequal opinions lose mass in a geometric mean that is not.
    assert (fuse(*opinions, 0.5, 0.5, "fvit").sum(1) <= 1 + 1e-5).all()
    assert fuse(np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]]), [True], 0.5, 0.5, "fvit").sum() == pytest.approx(0.6)


@given(opinions(), weights, weights)
def test_the_void_stays_the_heads(opinions, alpha, beta):
    np.testing.assert_allclose(fuse(*opinions, alpha, beta, "odise")[:, -1], opinions[0][:, -1], rtol=1e-5)


@pytest.mark.parametrize("variant", ["fvlm", "odise"])
@given(opinions(), weights, weights)
def test_clips_background_is_ignored(variant, opinions, alpha, beta):
    head, clip, seen = opinions
    with_it, without = (fuse(head, c, seen, alpha, beta, variant) for c in (clip, clip[:, :-1]))
    np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_impossible_class_with_a_weight_of_0_is_no_nan(variant):
    head = np.array([[0.0, 0.5, 0.5], [0.7, 0.2, 0.1]])
    clip = np.array([[0.6, 0.3, 0.1], [0.0, 0.9, 0.1]])
    seen = [True, False]
    np.testing.assert_allclose(fuse(head, clip, seen, 0, 0, variant), head, rtol=1e-6)
    # Class 0 is seen: by CLIP alone in the first row, and impossible to CLIP in the second.
    fused = fuse(head, clip, seen, 1, 0, variant)
    assert np.isfinite(fused).all()
    assert fused[0, 0] > 0
    assert fused[1, 0] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_any_possible_class(variant):
    head = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    clip = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    fused = fuse(head, clip, [True, True], 0.5, 0.5, variant)
    np.testing.assert_array_equal(fused[:, :-1], 0)
    assert fused[1, -1] == (0 if variant == "fvit" else 1)


def test_tiny_probabilities_do_not_underflow():
    logs = torch.tensor([[-300.0, -301.0, -0.0]])  # exp(-300) is 0 in fp32
    fused = fuse_scores(logs, logs, torch.tensor([True, False]), 0.5, 0.5, "odise")
    assert torch.isfinite(fused).all()
    half = logs.clamp(min=-100).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fuse_scores(half, half, torch.tensor([True, False]), 0.2, 0.5, "fvlm").dtype == torch.float32


def test_wrong_settings_are_refused():
    logs = torch.log_softmax(torch.randn(2, 4), dim=-1)
    seen = torch.tensor([True, True, False])
    with pytest.raises(InputError, match=r"alpha is 1\.5"):
        fuse_scores(logs, logs, seen, 1.5, 0.5, "fvit")
    with pytest.raises(InputError, match="beta is nan"):
        fuse_scores(logs, logs, seen, 0.5, float("nan"), "fvit")
    with pytest.raises(InputError, match="fvit, fvlm, odise, fcclip"):
        fuse_scores(logs, logs, seen, 0.5, 0.5, "mean")
    for head, clip, mask, variant in [
        (logs, logs[:, :3], seen, "fvit"),
        (logs, logs[:1], seen, "fvlm"),
        (logs, logs[:, :2], seen, "odise"),
        (logs, logs, seen[:2], "odise"),
    ]:
        with pytest.raises(InputError, match="do not fit"):
            fuse_scores(head, clip, mask, 0.5, 0.5, variant)


def test_whole_numbers_are_weights_too():
    head, clip = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.8, 0.1]])
    for alpha, beta in ((0.7, 0), (0.7, 1), (0, 0.3)):
        wanted = fuse(head, clip, [True, False], float(alpha), float(beta), "odise")
        np.testing.assert_array_equal(fuse(head, clip, [True, False], alpha, beta, "odise"), wanted)
