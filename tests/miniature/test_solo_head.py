import torch
import torch.nn.functional as F

from clipself_d2.miniature.solo_head import POSITION_TERMS, Cells, CosineScores, SOLOHead, dynamic_masks
from clipself_d2.vocabulary import Vocabulary


def naive_mask(features, kernel, center):
    """The formula, pixel by pixel."""
    channels, height, width = features.shape
    mask = torch.zeros(height, width)
    for i in range(height):
        for j in range(width):
            x = ((j + 0.5) / width - center[0]) * 4
            y = ((i + 0.5) / height - center[1]) * 4
            position = torch.stack([torch.ones(()), x, y, x * x, x * y, y * y])
            mask[i, j] = kernel[:channels] @ features[:, i, j] + kernel[channels:] @ position
    return mask


def test_dynamic_masks_equal_the_formula():
    features, kernels = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 3 + POSITION_TERMS)
    centers = torch.rand(2, 5, 2)
    masks = dynamic_masks(features, kernels, centers)
    for image in range(2):
        for m in range(5):
            expected = naive_mask(features[image], kernels[image, m], centers[image, m])
            torch.testing.assert_close(masks[image, m], expected, rtol=1e-4, atol=1e-4)


def test_a_kernel_means_the_same_at_every_cell():
    """Position is relative: a circle predicted at two cells is the same circle, moved."""
    kernel = torch.tensor([0.0, 1.0, 0, 0, -1.0, 0, -1.0]).expand(1, 2, -1)
    centers = torch.tensor([[[0.25, 0.25], [0.75, 0.5]]])
    one, other = (dynamic_masks(torch.zeros(1, 1, 32, 32), kernel, centers) > 0)[0]
    assert one.any()
    assert torch.equal(one.roll((8, 16), (0, 1)), other)


def test_masks_of_chosen_cells():
    centers = torch.rand(9, 2)
    cells = Cells(torch.randn(2, 3, 4, 4), torch.randn(2, 9, 9), torch.randn(2, 9, 5), torch.randn(2, 9), centers)
    chosen = torch.tensor([[8, 0], [3, 3]])
    masks = cells.masks(chosen)
    for image in range(2):
        for m, cell in enumerate(chosen[image].tolist()):
            expected = naive_mask(cells.features[image], cells.kernels[image, cell], centers[cell])
            torch.testing.assert_close(masks[image, m], expected, rtol=1e-4, atol=1e-4)


def test_cells_lie_row_by_row_on_the_coarse_map():
    head = SOLOHead(32, 5, mask_channels=7, num_convs=1)
    cells = head(torch.randn(2, 32, 8, 16), torch.randn(2, 32, 2, 4))
    assert cells.features.shape == (2, 7, 8, 16)
    assert cells.kernels.shape == (2, 8, 7 + POSITION_TERMS)
    assert cells.embeddings.shape == (2, 8, 5)
    assert cells.mask_iou.shape == (2, 8)
    expected = [((column + 0.5) / 4, (row + 0.5) / 2) for row in range(2) for column in range(4)]
    torch.testing.assert_close(cells.centers, torch.tensor(expected))


def test_a_cell_predicts_from_its_own_place():
    """Cell number 5 is row 1, column 1 of 2 x 4: what changes there only, changes it."""
    head = SOLOHead(32, 5, mask_channels=7, num_convs=0)
    fine, coarse = torch.randn(1, 32, 4, 8), torch.randn(1, 32, 2, 4)
    before = head(fine, coarse)
    coarse[0, :, 1, 1] += 1
    after = head(fine, coarse)
    changed = (before.kernels != after.kernels).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [5]


def vocabulary():
    rows = F.normalize(torch.randn(3, 5), dim=1)
    return Vocabulary(["cat", "dog", "sky"], rows, novel=["dog"], background=torch.randn(5))


def test_scores_are_the_softmax_of_cosines_times_the_temperature():
    words, features = vocabulary(), torch.randn(4, 5)
    expected = (20 * F.cosine_similarity(features[:, None], words.text_embeddings[None], dim=-1)).log_softmax(dim=1)
    torch.testing.assert_close(CosineScores(20.0)(features, words, only_base=False), expected, rtol=1e-4, atol=1e-4)


def test_novel_classes_are_impossible_in_training():
    words, features = vocabulary(), torch.randn(4, 5)
    log = CosineScores(20.0)(features, words, only_base=True)
    assert (log[:, 1] == float("-inf")).all()
    expected = (20 * F.cosine_similarity(features[:, None], words.text_embeddings[None, [0, 2]], dim=-1)).log_softmax(
        dim=1
    )
    torch.testing.assert_close(log[:, [0, 2]], expected, rtol=1e-4, atol=1e-4)


def test_an_embedding_of_zeros_is_no_nan():
    features = torch.zeros(1, 5, requires_grad=True)
    log = CosineScores()(features, vocabulary(), only_base=True)
    log[0, 0].backward()
    assert features.grad.isfinite().all()
