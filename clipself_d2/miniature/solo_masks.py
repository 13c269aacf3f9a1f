"""A small SOLO-style mask generator: trains in minutes on the pyramid of a frozen tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.backbones import CLIPBackbone
from clipself_d2.data import PanopticMapper
from clipself_d2.engine.checkpoint import load_model
from clipself_d2.errors import InputError
from clipself_d2.miniature.solo_head import Cells, CosineScores, SOLOHead
from clipself_d2.miniature.solo_losses import cell_owners, mask_losses, matrix_nms, sample_cells
from clipself_d2.panoptic.masks import MaskPredictions, check_classes
from clipself_d2.regions import letterbox_images, letterbox_masks
from clipself_d2.vocabulary import Vocabulary

LOSS_WEIGHTS = {"mask": 5.0, "dice": 5.0, "class": 2.0, "mask_iou": 1.0}
"""Mask2Former's, and 1 for the predicted IoU."""

Sample = Mapping[str, Any]


class SegmentMapper(PanopticMapper):
    """Maps a panoptic record to a training sample; nothing is drawn at random."""

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """See `PanopticMapper`."""
        return super().__call__(record)


class _Targets(NamedTuple):
    """What the cells of B images are to find.

    Attributes:
        masks: (R + 1) x h x w in 0..1 on the fine grid: the segments of all images, and an empty one.
        classes: R, of the segments.
        first: B, the number of each image's first segment.
        owners: B x n, the segment of each cell within its image, see `cell_owners`.
        known: B x h x w in 0..1: how much of each fine pixel is labeled with a base class.
    """

    masks: Tensor
    classes: Tensor
    first: Tensor
    owners: Tensor
    known: Tensor


class SOLOMasks(nn.Module):
    """Losses in training, `MaskPredictions` in evaluation. Masks come from dynamic kernels, as in SOLOv2 and CondInst.

    Each cell of the pyramid's second level predicts the segment, thing or stuff, that covers most of it. Only base
    classes are trained: where the label is a novel class, a crowd or missing, cells and pixels have no loss. The scores
    have no void; the predicted IoU says how well a mask fits a segment.

    Args:
        backbone: pyramid on a frozen tower. Its first level is the resolution of the masks, its second the cells.
        head: the predictions.
        vocabulary: the training vocabulary, and that of a call without one.
        size: side of the square input in pixels, a multiple of the tower's stride.
        temperature: initial factor of the cosines.
        cells_per_image: cells per image that are trained.
        max_masks: most masks per image.
        min_mask_iou: masks with a lower IoU, after suppression, are dropped.

    Raises:
        InputError: a size that is not a multiple of the stride, a vocabulary without a base class or of another tower.
    """

    def __init__(
        self,
        backbone: CLIPBackbone,
        head: SOLOHead,
        vocabulary: Vocabulary,
        size: int,
        *,
        temperature: float = 50.0,
        cells_per_image: int = 64,
        max_masks: int = 40,
        min_mask_iou: float = 0.1,
    ) -> None:
        super().__init__()
        backbone.tower.check_size(size, "model.size")
        if not vocabulary.is_base.any():
            raise InputError("vocabulary: none of its classes is a base class: there is nothing to train on")
        self.backbone = backbone
        self.head = head
        self.scores = CosineScores(temperature)
        self.vocabulary = vocabulary
        self.size = size
        self.cells_per_image = cells_per_image
        self.max_masks = max_masks
        self.min_mask_iou = min_mask_iou
        self._check(vocabulary)

    def forward(self, inputs: Sequence[Sample], vocabulary: Vocabulary | None = None) -> Any:
        """Follow Detectron2's contract in training, and that of a `MaskGenerator` in evaluation.

        Args:
            inputs: samples with `image` (3 x H x W uint8); in training also `masks` (R x H x W bool), `classes` (R
                long) and optionally `iscrowd` (R bool).
            vocabulary: the classes of the call; None for the model's own.

        Returns:
            In training losses by name, means over the images; in evaluation the masks of every image.

        Raises:
            InputError: a vocabulary of another tower; in training, a sample without masks or with other classes.
        """
        if vocabulary is None:
            vocabulary = self.vocabulary
        else:
            self._check(vocabulary)
            vocabulary = vocabulary.to(self.backbone.tower.pixel_mean.device)
        if self.training:
            return self._losses(inputs, vocabulary)
        with torch.no_grad():
            return self._generate(inputs, vocabulary) if inputs else []

    def _cells(self, inputs: Sequence[Sample]) -> tuple[Cells, list[float]]:
        images = letterbox_images(self.backbone.tower, [x["image"] for x in inputs], self.size)
        levels = self.backbone(images.pixels)
        fine, coarse = (levels[name] for name in self.backbone.level_names[:2])
        return self.head(fine, coarse), images.scales

    def _losses(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> dict[str, Tensor]:
        cells, _ = self._cells(inputs)
        targets = self._targets(inputs, vocabulary, cells)
        chosen, has_any = sample_cells(targets.owners, self.cells_per_image)
        per_cell = has_any.repeat_interleave(self.cells_per_image)

        segment = (targets.owners.gather(1, chosen) + targets.first[:, None]).flatten()
        segment = segment.where(per_cell > 0, -1)  # the empty one
        known = targets.known.repeat_interleave(self.cells_per_image, dim=0)
        logits = cells.masks(chosen).flatten(0, 1).flatten(1)
        entropy, dice, iou = mask_losses(logits, targets.masks[segment].flatten(1), known.flatten(1))

        embeddings = cells.embeddings.gather(1, chosen[..., None].expand(-1, -1, cells.embeddings.shape[-1]))
        log_scores = self.scores(embeddings.flatten(0, 1), vocabulary, only_base=True)
        any_base = int(vocabulary.is_base.nonzero()[0])
        labels = torch.cat([targets.classes, targets.classes.new_full((1,), any_base)])[segment]
        mask_iou = cells.mask_iou.gather(1, chosen).flatten().float()
        losses = {
            "mask": entropy,
            "dice": dice,
            "class": F.nll_loss(log_scores, labels, reduction="none"),
            "mask_iou": F.binary_cross_entropy_with_logits(mask_iou, iou.detach(), reduction="none"),
        }
        weight = per_cell / (len(inputs) * self.cells_per_image)
        return {f"loss_{name}": LOSS_WEIGHTS[name] * (loss * weight).sum() for name, loss in losses.items()}

    def _targets(self, inputs: Sequence[Sample], vocabulary: Vocabulary, cells: Cells) -> _Targets:
        grid, device = cells.features.shape[-1], cells.features.device
        side = round(len(cells.centers) ** 0.5)
        masks, classes, owners, known = [], [], [], []
        for x in inputs:
            name = x.get("file_name", "a training image")
            if "masks" not in x or "classes" not in x:
                raise InputError(f"{name}: has no 'masks' and 'classes' to train on: use a panoptic data set")
            check_classes(x["classes"], len(vocabulary), name)
            labels = x["classes"].to(device)
            usable = vocabulary.is_base.to(device)[labels]
            if "iscrowd" in x:
                usable = usable & ~x["iscrowd"].to(device)
            truth = letterbox_masks(x["masks"].to(device), grid)
            masks.append(truth)
            classes.append(labels)
            owners.append(cell_owners(F.adaptive_avg_pool2d(truth, side).flatten(1), usable))
            known.append(truth[usable].sum(dim=0).clamp(max=1))
        first = torch.tensor([0, *map(len, masks[:-1])], device=device).cumsum(0)
        empty = torch.zeros(1, grid, grid, device=device)
        return _Targets(torch.cat([*masks, empty]), torch.cat(classes), first, torch.stack(owners), torch.stack(known))

    def _generate(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> list[MaskPredictions]:
        cells, scales = self._cells(inputs)
        sides = torch.tensor([x["image"].shape[1:] for x in inputs], device=cells.centers.device)
        content = sides * torch.tensor(scales, device=sides.device)[:, None] / self.size  # height, width in 0..1
        inside = (cells.centers.flip(-1)[None] < content[:, None]).all(dim=-1)  # not in the padding
        mask_iou, order = (cells.mask_iou.float().sigmoid() * inside).sort(dim=1, descending=True)
        masks = cells.masks(order)
        mask_iou = matrix_nms(masks.flatten(2) > 0, mask_iou)
        results = []
        for i, x in enumerate(inputs):
            kept = mask_iou[i].topk(min(self.max_masks, mask_iou.shape[1])).indices
            kept = kept[mask_iou[i, kept] >= self.min_mask_iou]
            log_scores = self.scores(cells.embeddings[i, order[i, kept]], vocabulary, only_base=False)
            log_scores = F.pad(log_scores, (0, 1), value=float("-inf"))  # no void
            logits = F.interpolate(masks[i, kept][:, None], (self.size, self.size), mode="bilinear")[:, 0]
            height, width = (max(1, round(float(side) * scales[i])) for side in x["image"].shape[1:])
            results.append(MaskPredictions(logits[:, :height, :width], log_scores, mask_iou[i, kept]))
        return results

    def _check(self, vocabulary: Vocabulary) -> None:
        fix = "use the text tower that the generator was trained with"
        vocabulary.check_embed_dim(self.head.split[1], "the mask generator's", fix)


def trained_masks(model: SOLOMasks, checkpoint: str) -> SOLOMasks:
    """Load a generator, frozen and in evaluation mode.

    Args:
        model: the generator as its training config builds it.
        checkpoint: a `checkpoint_*.pth` of its training.

    Raises:
        InputError: a file that is missing or of another model.
    """
    load_model(model, checkpoint)
    return model.requires_grad_(False).eval()
