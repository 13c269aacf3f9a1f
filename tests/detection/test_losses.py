import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipself_d2.detection.losses import box_loss, class_weights, classification_loss

SEEN = torch.tensor([True, False, True, True, False])


def naive_classification(logits, labels, weights):
    """Softmax over the classes of some weight, each region weighted by its class, over the number of regions."""
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        known = [z for z, w in zip(row, weights, strict=True) if w > 0]
        peak = max(known)
        total += weights[label] * (peak + math.log(sum(math.exp(z - peak) for z in known)) - row[label])
    return total / max(1, len(logits))


@pytest.mark.parametrize("background", [0.6, 0.9])
def test_weights(background):
    assert class_weights(SEEN, background).tolist() == pytest.approx([1, 0, 1, 1, 0, background])


@given(st.integers(0, 30), st.floats(0.1, 1.0), st.floats(0.1, 100), st.integers(0, 2**31))
def test_classification_against_a_float64_loop(regions, background, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(regions, 6, generator=generator) * scale
    labels = torch.tensor([0, 2, 3, 5])[torch.randint(0, 4, (regions,), generator=generator)]
    weights = class_weights(SEEN, background)
    expected = naive_classification(logits, labels, weights.tolist())
    assert classification_loss(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_novel_classes_are_outside_the_softmax():
    """Whatever their logits are; and the gradient is that of the base classes alone."""
    logits = torch.randn(7, 6).mul(10).requires_grad_()
    labels = torch.tensor([0, 2, 3, 5, 5, 0, 2])
    weights = class_weights(SEEN, 0.6)
    loss = classification_loss(logits, labels, weights)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and not logits.grad[:, [1, 4]].any()
    soft = torch.softmax(logits.detach()[:, [0, 2, 3, 5]], dim=1)
    hot = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 3, 0, 1]), 4)
    wanted = weights[labels][:, None] * (soft - hot) / 7
    torch.testing.assert_close(logits.grad[:, [0, 2, 3, 5]], wanted)
    changed = logits.detach().clone()
    changed[:, [1, 4]] = 1e30
    assert torch.equal(classification_loss(changed, labels, weights), loss.detach())


def test_the_sum_is_over_the_number_of_regions_and_not_of_weights():
    logits = torch.zeros(4, 3)
    labels = torch.tensor([0, 2, 2, 2])
    loss = classification_loss(logits, labels, torch.tensor([1.0, 1.0, 0.6]))
    assert loss.item() == pytest.approx((1 + 3 * 0.6) * math.log(3) / 4)


def test_without_seen_classes_nothing_is_to_tell_apart():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = classification_loss(logits, torch.full((3,), 3), class_weights(torch.zeros(3, dtype=torch.bool), 0.6))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_no_regions():
    logits, deltas = torch.zeros(0, 6, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = classification_loss(logits, none, class_weights(SEEN, 0.6)) + box_loss(
        deltas, torch.zeros(0, 4), none.bool()
    )
    loss.backward()
    assert loss == 0 and logits.grad is not None and deltas.grad is not None


@given(st.integers(1, 20), st.integers(0, 2**31))
def test_box_loss_against_a_loop(regions, seed):
    generator = torch.Generator().manual_seed(seed)
    deltas, targets = torch.randn(2, regions, 4, generator=generator)
    foreground = torch.rand(regions, generator=generator) < 0.4
    targets[~foreground] = float("nan")  # whatever rows without an object hold
    expected = sum(
        abs(d - t)
        for row, other, fg in zip(deltas.double().tolist(), targets.double().tolist(), foreground.tolist(), strict=True)
        if fg
        for d, t in zip(row, other, strict=True)
    )
    deltas.requires_grad_()
    loss = box_loss(deltas, targets, foreground)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(deltas.grad, (deltas - targets).sign().where(foreground[:, None], 0))


def test_regions_of_no_label_are_left_out():
    logits = torch.randn(6, 6, requires_grad=True)
    labels, weights = torch.tensor([0, -1, 5, 3, -1, 2]), class_weights(SEEN, 0.6)
    loss = classification_loss(logits, labels, weights)
    loss.backward()
    assert loss.item() == pytest.approx(
        naive_classification(logits[labels >= 0], labels[labels >= 0], weights.tolist()), rel=1e-5
    )
    assert not logits.grad[labels < 0].any()


def test_bfloat16_logits_are_summed_in_fp32():
    logits = (torch.randn(50, 6) * 5).bfloat16()
    labels = torch.tensor([0, 2, 3, 5, 5] * 10)
    with torch.autocast("cpu", torch.bfloat16):
        loss = classification_loss(logits, labels, class_weights(SEEN, 0.6))
        boxes = box_loss(logits[:, :4], torch.zeros(50, 4), labels < 5)
    assert loss.dtype == boxes.dtype == torch.float32
    expected = naive_classification(logits, labels, class_weights(SEEN, 0.6).tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
