"""Assignment of segments to cells, the losses of masks, and the suppression of duplicates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_owners(masks: Tensor, usable: Tensor) -> Tensor:
    """Assign to each cell the segment that covers most of it.

    Args:
        masks: R x n, how much of each cell each segment covers, 0..1.
        usable: R bool; cells of other segments have no segment.

    Returns:
        n longs, 0..R - 1, or -1 for none.
    """
    if not len(masks):
        return masks.new_full((masks.shape[1],), -1, dtype=torch.long)
    covered, owners = masks.max(dim=0)
    return owners.where((covered > 0) & usable[owners], -1)


def sample_cells(owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw cells of every image; all its segments have the same chance, whatever their size.

    Args:
        owners: B x n longs, the segment of each cell, -1 for none.
        count: cells per image, with replacement.

    Returns:
        B x count cell indices, and B floats: 1, or 0 for an image whose cells have no segment.
    """
    owned = owners >= 0
    columns = owners.clamp(min=0)
    sizes = torch.zeros(len(owners), int(owners.max()) + 2 if owners.numel() else 1, device=owners.device)
    sizes.scatter_add_(1, columns, owned.float())
    chance = owned / sizes.gather(1, columns).clamp(min=1)
    has_any = owned.any(dim=1, keepdim=True)
    return torch.multinomial(chance.where(has_any, 1.0), count, replacement=True), has_any[:, 0].float()


def mask_losses(logits: Tensor, targets: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the losses of masks where the label is known.

    Args:
        logits: M x P.
        targets: M x P, 0..1.
        known: M x P in 0..1, weights of the pixels.

    Returns:
        M binary cross entropies (means over the known pixels), M dice losses, and M IoUs of the binary masks.
    """
    pixels = known.sum(dim=1).clamp(min=1)
    entropy = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * known).sum(dim=1) / pixels
    probabilities, targets = logits.sigmoid() * known, targets * known
    overlap = 2 * (probabilities * targets).sum(dim=1) + 1
    dice = 1 - overlap / (probabilities.sum(dim=1) + targets.sum(dim=1) + 1)
    found, true = (logits > 0) & (known > 0.5), targets > 0.5
    iou = (found & true).sum(dim=1) / (found | true).sum(dim=1).clamp(min=1)
    return entropy, dice, iou


def matrix_nms(masks: Tensor, scores: Tensor) -> Tensor:
    """Lower the scores of masks that better ones cover (matrix NMS: SOLOv2, section 3.4, linear decay).

    Args:
        masks: B x m x P bool.
        scores: B x m, descending, not negative.

    Returns:
        B x m scores; the score of an empty mask is 0.
    """
    flat = masks.float()
    overlap = flat @ flat.mT
    area = flat.sum(dim=2)
    union = area[:, :, None] + area[:, None, :] - overlap
    iou = (overlap / union.clamp(min=1)).triu(diagonal=1)  # iou[i, j]: of j with the better i
    worst = iou.amax(dim=1)[:, :, None]  # how much a better one covers i
    decay = ((1 - iou) / (1 - worst).clamp(min=1e-6)).clamp(max=1).amin(dim=1)
    return scores * decay * (area > 0)
