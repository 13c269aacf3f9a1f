"""KernelMasks: a mask generator that trains in minutes on the pyramid of a frozen tower, for the miniature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from clipself_d2.backbones import CLIPBackbone
from clipself_d2.engine.checkpoint import load_model
from clipself_d2.errors import InputError
from clipself_d2.panoptic.kernel_masks_head import Cells, CosineScores, KernelHead
from clipself_d2.panoptic.kernel_masks_losses import cell_owners, mask_losses, matrix_nms, sample_cells
from clipself_d2.panoptic.masks import MaskPredictions
from clipself_d2.regions import letterbox, letterbox_masks
from clipself_d2.vocabulary import Vocabulary

LOSS_WEIGHTS = {"mask": 5.0, "dice": 5.0, "class": 2.0, "mask_iou": 1.0}
"""Those of Mask2Former, and 1 for the mask_iou."""

Sample = Mapping[str, Any]


@META_ARCH_REGISTRY.register()
class KernelMasks(nn.Module):
    """Losses in training, `MaskPredictions` in evaluation: dynamic kernels by location (as SOLOv2's and CondInst's).

    Every cell of the pyramid's second level answers for the segment that covers most of it, thing or stuff. It is
    trained on seen classes alone: where a novel class, a crowd or nothing is labelled, cells and pixels have no loss.

    There is no void among the scores: every mask that is returned claims to be a segment, and ``mask_iou`` says how
    well it fits one.

    Args:
        backbone: pyramid on a frozen tower; masks are as fine as its first level, the cells are those of its second.
        head: the predictions.
        vocabulary: the training vocabulary, and that of a call without one.
        size: side of the square input in pixels, a multiple of the tower's stride.
        temperature: initial factor of the cosines.
        cells_per_image: cells that are trained, of every image.
        max_masks: masks of an image, at most.
        min_quality: masks whose mask_iou, after suppression, is lower are dropped.

    Raises:
        InputError: a size that is no multiple of the stride, a vocabulary without a seen class or of another tower.
    """

    def __init__(
        self,
        backbone: CLIPBackbone,
        head: KernelHead,
        vocabulary: Vocabulary,
        size: int,
        *,
        temperature: float = 50.0,
        cells_per_image: int = 64,
        max_masks: int = 40,
        min_quality: float = 0.1,
    ) -> None:
        super().__init__()
        backbone.tower.check_size(size, "model.size")
        if not vocabulary.is_base.any():
            raise InputError("vocabulary: none of its classes is seen: there is nothing to train on")
        self.backbone = backbone
        self.head = head
        self.scores = CosineScores(temperature)
        self.vocabulary = vocabulary
        self.size = size
        self.cells_per_image = cells_per_image
        self.max_masks = max_masks
        self.min_quality = min_quality
        self._check(vocabulary)

    def forward(self, inputs: Sequence[Sample], vocabulary: Vocabulary | None = None) -> Any:
        """Detectron2's contract in training, that of a `MaskGenerator` in evaluation.

        Args:
            inputs: samples with ``image`` (3 x H x W uint8), in training with ``masks`` (R x H x W bool), ``classes``
                (R long) and, where there are crowds, ``iscrowd`` (R bool).
            vocabulary: the classes of the call; None for the model's own.

        Returns:
            In training losses by name, means over the images; in evaluation the masks of every image.

        Raises:
            InputError: a vocabulary of another tower; in training, a sample without masks or with other classes.
        """
        device = self.backbone.tower.pixel_mean.device
        if vocabulary is None:
            vocabulary = self.vocabulary
        else:
            self._check(vocabulary)
            vocabulary = vocabulary.to(device)
        if self.training:
            return self._losses(inputs, vocabulary)
        with torch.no_grad():
            return self._generate(inputs, vocabulary) if inputs else []

    def _cells(self, inputs: Sequence[Sample]) -> tuple[Cells, list[float]]:
        tower = self.backbone.tower
        images = [x["image"].to(tower.pixel_mean.device, non_blocking=True) for x in inputs]
        pixels, scales = letterbox(images, self.size)
        levels = self.backbone(tower.normalize(pixels))
        fine, coarse = (levels[name] for name in self.backbone.level_names[:2])
        return self.head(fine, coarse), scales

    def _losses(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> dict[str, Tensor]:
        if not inputs:  # every rank takes part in the reduction of the gradients: a blank image without segments
            blank = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
            nothing = torch.zeros(0, self.size, self.size, dtype=torch.bool)
            inputs = [{"image": blank, "masks": nothing, "classes": torch.zeros(0, dtype=torch.long)}]
        cells, _ = self._cells(inputs)
        truths, owners, knowns, classes = self._targets(inputs, vocabulary, cells)
        chosen, has_any = sample_cells(owners, self.cells_per_image)

        # Segments of the whole batch are numbered in one row; the last truth is for images that have none.
        first = torch.tensor([0, *[len(truth) for truth in truths[:-1]]], device=chosen.device).cumsum(0)
        segment = (owners.gather(1, chosen) + first[: len(inputs), None]).flatten()
        segment = segment.where(has_any.repeat_interleave(self.cells_per_image) > 0, -1)
        known = knowns.repeat_interleave(self.cells_per_image, dim=0)
        logits = cells.masks(chosen).flatten(0, 1).flatten(1)
        entropy, dice, iou = mask_losses(logits, torch.cat(truths)[segment].flatten(1), known.flatten(1))

        embeddings = cells.embeddings.gather(1, chosen[..., None].expand(-1, -1, cells.embeddings.shape[-1]))
        log_scores = self.scores(embeddings.flatten(0, 1), vocabulary, only_base=True)
        any_seen = int(vocabulary.is_base.nonzero()[0])
        labels = torch.cat([classes, classes.new_full((1,), any_seen)])[segment]
        mask_iou = cells.mask_iou.gather(1, chosen).flatten().float()
        losses = {
            "mask": entropy,
            "dice": dice,
            "class": F.nll_loss(log_scores, labels, reduction="none"),
            "mask_iou": F.binary_cross_entropy_with_logits(mask_iou, iou.detach(), reduction="none"),
        }
        weight = has_any.repeat_interleave(self.cells_per_image) / (len(inputs) * self.cells_per_image)
        return {f"loss_{name}": LOSS_WEIGHTS[name] * (loss * weight).sum() for name, loss in losses.items()}

    def _targets(
        self, inputs: Sequence[Sample], vocabulary: Vocabulary, cells: Cells
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """What the cells are to find.

        Returns:
            The segments' masks on the fine grid, R_i x h x h for every image, and one that is empty; the segment of
            every cell, B x n (see `cell_owners`); how much is known of every fine pixel, B x h x h; and the classes of
            all segments, sum(R_i).
        """
        grid, device = cells.features.shape[-1], cells.features.device
        side = round(len(cells.centres) ** 0.5)
        truths, owners, knowns, labels = [], [], [], []
        for x in inputs:
            masks, classes, usable = self._segments(x, vocabulary)
            truth = letterbox_masks(masks.to(device), grid)
            coverage = F.adaptive_avg_pool2d(truth, side).flatten(1)
            usable = usable.to(device)
            truths.append(truth)
            owners.append(cell_owners(coverage, usable))
            knowns.append(truth[usable].sum(dim=0).clamp(max=1))
            labels.append(classes.to(device))
        empty = torch.zeros(1, grid, grid, device=device)
        return [*truths, empty], torch.stack(owners), torch.stack(knowns), torch.cat(labels)

    @staticmethod
    def _segments(x: Sample, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
        """Masks and classes of a sample, and which of them may be learned from."""
        name = x.get("file_name", "a training image")
        if "masks" not in x or "classes" not in x:
            raise InputError(
                f"{name}: has no 'masks' and 'classes' to train on: use a panoptic data set and its mapper"
            )
        masks, classes = x["masks"], x["classes"]
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < vocabulary.num_classes:
            raise InputError(
                f"{name}: has a segment of class {int(classes.max())}, the vocabulary has {vocabulary.num_classes} "
                "classes: use the vocabulary of this data set"
            )
        usable = vocabulary.is_base.to(classes.device)[classes]
        if "iscrowd" in x:
            usable = usable & ~x["iscrowd"]
        return masks, classes, usable

    def _generate(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> list[MaskPredictions]:
        cells, scales = self._cells(inputs)
        sides = torch.tensor([x["image"].shape[1:] for x in inputs], device=cells.centres.device)
        content = sides * torch.tensor(scales, device=sides.device)[:, None] / self.size  # height, width in 0..1
        inside = (cells.centres.flip(-1)[None] < content[:, None]).all(dim=-1)  # not in the letterbox's margin
        mask_iou, order = (cells.mask_iou.float().sigmoid() * inside).sort(dim=1, descending=True)
        masks = cells.masks(order)
        mask_iou = matrix_nms(masks.flatten(2) > 0, mask_iou)
        results = []
        for i in range(len(inputs)):
            kept = mask_iou[i].topk(min(self.max_masks, mask_iou.shape[1])).indices
            kept = kept[mask_iou[i, kept] >= self.min_quality]
            log_scores = self.scores(cells.embeddings[i, order[i, kept]], vocabulary, only_base=False)
            logits = F.interpolate(masks[i, kept][:, None], (self.size, self.size), mode="bilinear")[:, 0]
            height, width = (max(1, round(float(side) * scales[i])) for side in inputs[i]["image"].shape[1:])
            void = log_scores.new_full((len(kept), 1), float("-inf"))
            results.append(
                MaskPredictions(logits[:, :height, :width], torch.cat([log_scores, void], dim=1), mask_iou[i, kept])
            )
        return results

    def _check(self, vocabulary: Vocabulary) -> None:
        mend = "use the text tower that the generator was trained with"
        vocabulary.check_embed_dim(self.head.split[1], "the mask generator's", mend)


def trained_masks(model: KernelMasks, checkpoint: str) -> KernelMasks:
    """A generator with the weights of a checkpoint, frozen and in evaluation mode.

    Args:
        model: the generator as its training config builds it.
        checkpoint: a `checkpoint_*.pth` of its training.

    Raises:
        InputError: if the file is missing or of another model.
    """
    load_model(model, checkpoint)
    return model.requires_grad_(False).eval()
