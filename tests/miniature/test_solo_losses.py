import math

import hypothesis.strategies as st
import torch
from hypothesis import given

from clipself_d2.miniature.solo_losses import cell_owners, mask_losses, matrix_nms, sample_cells


def test_a_cell_belongs_to_what_covers_most_of_it():
    masks = torch.tensor([[0.6, 0.2, 0.0, 0.3], [0.4, 0.7, 0.0, 0.1], [0.0, 0.1, 0.0, 0.6]])
    assert cell_owners(masks, torch.tensor([True, True, True])).tolist() == [0, 1, -1, 2]
    # Not to the best of the usable ones: cell 3 shows something unusable.
    assert cell_owners(masks, torch.tensor([True, True, False])).tolist() == [0, 1, -1, -1]
    assert cell_owners(torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)).tolist() == [-1] * 4


def test_segments_are_drawn_equally_whatever_their_size():
    owners = torch.tensor([[0] * 90 + [1] * 9 + [-1], [-1] * 100])
    cells, has_any = sample_cells(owners, 4000)
    assert has_any.tolist() == [1, 0]
    drawn = owners[0, cells[0]]
    assert (drawn >= 0).all()
    assert abs((drawn == 1).float().mean() - 0.5) < 0.05
    assert len(cells[0].unique()) == 99  # and each of their cells


def naive_losses(logits, targets, known):
    entropy = overlap = probability_sum = target_sum = pixels = 0.0
    both = either = 0
    for z, t, k in zip(logits, targets, known, strict=True):
        p = 1 / (1 + math.exp(-z))
        entropy -= k * (t * math.log(p) + (1 - t) * math.log(1 - p))
        pixels += k
        overlap += p * t * k * k
        probability_sum += p * k
        target_sum += t * k
        found, true = z > 0 and k > 0.5, t * k > 0.5
        both, either = both + (found and true), either + (found or true)
    dice = 1 - (2 * overlap + 1) / (probability_sum + target_sum + 1)
    return entropy / max(pixels, 1), dice, both / max(either, 1)


def test_mask_losses_equal_a_loop():
    logits, targets, known = torch.randn(5, 30), torch.rand(5, 30), torch.rand(5, 30).round()
    known[4] = 0  # nothing is known
    losses = torch.stack(mask_losses(logits, targets, known), dim=1)
    expected = [naive_losses(*rows) for rows in zip(logits.tolist(), targets.tolist(), known.tolist(), strict=True)]
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert losses[4].tolist() == [0, 0, 0]


def test_a_perfect_mask_has_no_loss():
    target = (torch.rand(3, 50) > 0.5).float()
    entropy, dice, iou = mask_losses((target - 0.5) * 40, target, torch.ones(3, 50))
    assert entropy.max() < 1e-6
    assert dice.max() < 1e-6
    assert iou.tolist() == [1, 1, 1]


def naive_nms(masks, scores):
    """SOLOv2's decay, as the paper states it: min over better i of (1 - iou(i, j)) / (1 - iou(*, i))."""

    def iou(a, b):
        union = (a | b).sum().item()
        return (a & b).sum().item() / union if union else 0.0

    decayed = []
    for j in range(len(masks)):
        factor = 1.0
        for i in range(j):
            covered = max((iou(masks[k], masks[i]) for k in range(i)), default=0.0)
            factor = min(factor, (1 - iou(masks[i], masks[j])) / max(1 - covered, 1e-6))
        decayed.append(scores[j] * factor if masks[j].any() else 0.0)
    return decayed


@given(st.integers(0, 10_000))
def test_matrix_nms_equals_the_papers_formula(seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 6, 12, generator=generator) > torch.rand(2, 6, 1, generator=generator)
    masks[0, 1] = masks[0, 0]
    scores = torch.rand(2, 6, generator=generator).sort(dim=1, descending=True).values
    decayed = matrix_nms(masks, scores)
    for image in range(2):
        expected = torch.tensor(naive_nms(masks[image], scores[image].tolist()))
        torch.testing.assert_close(decayed[image], expected, rtol=1e-4, atol=1e-5)


def test_suppression_keeps_the_best_of_equals_and_what_stands_apart():
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, :2, :4] = True  # the same twice
    masks[0, 2, 4:] = True  # apart; 3 is empty
    scores = matrix_nms(masks, torch.tensor([[0.9, 0.8, 0.7, 0.6]]))
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.0, 0.7, 0.0]]))
