"""Open-vocabulary panoptic segmentation by plain arithmetic."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import reference
import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.panoptic import MaskPredictions, OpenVocabularyPanoptic, panoptic_segments
from clipself_d2.regions import fuse_scores

LEAST_COSINE = 0.98  # of a mask's embeddings by the two paths
PIXEL_TOLERANCE = 0.001  # part of the pixels whose segments may differ, of the same scores

_MASK_SIZE = (120, 160)  # as mask transformers predict them: a quarter of the image


def draw_predictions(count: int, classes: int) -> MaskPredictions:
    """Overlapping discs of all sizes, each with scores of its own."""
    rng = np.random.default_rng(0)
    rows, columns = (torch.arange(side) for side in _MASK_SIZE)
    y, x = (torch.from_numpy(rng.uniform(0, side, count)).float()[:, None, None] for side in _MASK_SIZE)
    radius = torch.from_numpy(rng.uniform(2, 30, count)).float()[:, None, None]
    distance = ((rows[:, None] - y) ** 2 + (columns - x) ** 2).sqrt()
    scores = torch.from_numpy(rng.normal(0, 3, (count, classes + 1))).float()
    return MaskPredictions(radius - distance, scores.log_softmax(dim=1))


class Reference:
    """Plain arithmetic with the tower, thresholds and weights of a model.

    Args:
        model: ours.
        predictions: the masks.
    """

    def __init__(self, model: OpenVocabularyPanoptic, predictions: MaskPredictions) -> None:
        self.model = model
        self.predictions = predictions

    def __call__(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """Segment ids, H x W, and the class of each segment."""
        return self.merge(self.fuse(*self.embed(image)), (image.shape[1], image.shape[2]))

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Q x C unit embeddings, and whether the masks cover anything."""
        embedder = self.model.embedder
        dense = reference.dense_map(embedder.tower, image, embedder.size)
        return reference.pool_masks(dense, self.predictions.masks, image.shape[1:], "bilinear")

    def fuse(self, embeddings: Tensor, valid: Tensor) -> Tensor:
        """Q x (K + 1) fused probabilities."""
        model, predicted = self.model, self.predictions.log_scores
        clip = (model.temperature * model.vocabulary.cosines(embeddings)).log_softmax(dim=1)
        fused = fuse_scores(predicted, clip, model.vocabulary.is_base, model.alpha, model.beta, model.fusion)
        return fused.where(valid[:, None], predicted.exp())

    def merge(self, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[int]]:
        """See `__call__`."""
        best, label = scores.max(dim=1)
        taking_part = (label < scores.shape[1] - 1) & (best > self.model.object_threshold)
        best, label = best[taking_part], label[taking_part]
        masks = F.interpolate(self.predictions.masks[taking_part][None], size, mode="bilinear", align_corners=False)[0]
        masks = masks.sigmoid()
        ids = torch.zeros(size, dtype=torch.int32, device=scores.device)
        classes: list[int] = []
        stuff: dict[int, int] = {}
        owner = (best[:, None, None] * masks).argmax(dim=0) if len(masks) else ids
        for number, category in enumerate(label.tolist()):
            won, inside = owner == number, masks[number] >= 0.5
            visible = won & inside
            if not visible.any() or won.sum().item() / inside.sum().item() < self.model.overlap_threshold:
                continue
            if category in stuff:
                ids[visible] = stuff[category]
                continue
            classes.append(category)
            ids[visible] = len(classes)
            if not self.model.isthing[category]:
                stuff[category] = len(classes)
        return ids, classes


def agree(model: OpenVocabularyPanoptic, plain: Reference, image: Tensor, precision: Any) -> dict[str, float]:
    """Compare the masks' embeddings, ours read with the reference's padding, and the segments of one set of scores.

    Raises:
        RunError: beyond the tolerances.
    """
    masks, size = plain.predictions.masks, (image.shape[1], image.shape[2])
    with harness.with_padding(model.embedder), torch.inference_mode(), precision:
        [(found, valid)] = model.embedder([image], [masks])
    expected, expected_valid = plain.embed(image)
    scores = plain.fuse(expected, expected_valid)
    thresholds = (model.object_threshold, model.overlap_threshold)
    ids, segments = panoptic_segments(scores, masks, model.isthing, size, *thresholds)
    plain_ids, classes = plain.merge(scores, size)
    return harness.check_agreement(
        lowest_cosine=(float((found * expected).sum(dim=-1)[expected_valid].min()), LEAST_COSINE, 1.001),
        differing_pixels=(float((ids != plain_ids).float().mean()), 0, PIXEL_TOLERANCE),
        valid_masks_that_differ=(float((valid != expected_valid).sum()), 0, 0),
        segments_that_differ=(float([segment["category_id"] for segment in segments] != classes), 0, 0),
    )
