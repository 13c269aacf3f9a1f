"""F-ViT's second stage: embed regions, compare them with text, refine their boxes, and fuse the scores with CLIP's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.modeling.roi_heads.roi_heads import ROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from clipself_d2.backbones.pyramid import level_names
from clipself_d2.detection.box_transform import BoundedBoxTransform
from clipself_d2.detection.heads import CosineClassifier
from clipself_d2.detection.losses import box_loss, class_weights, classification_loss, mask_loss
from clipself_d2.detection.matching import BoxMatcher
from clipself_d2.detection.pooler import RegionPooler
from clipself_d2.detection.sampling import sample_labels
from clipself_d2.detection.suppression import select_detections
from clipself_d2.regions.fusion import fuse_scores
from clipself_d2.regions.pooling import pool_boxes
from clipself_d2.vocabulary import Vocabulary


class OpenVocabularyROIHeads(ROIHeads):
    """Class-agnostic boxes (and masks) with open-vocabulary scores.

    Args:
        strides: strides of the pyramid's levels, ``p2`` first. Regions are pooled from all but the coarsest.
        box_head: maps R x D x 7 x 7 to embeddings R x C and deltas R x 4.
        classifier: maps embeddings and a vocabulary to logits R x (K + 1).
        mask_head: a class-agnostic mask head of Detectron2 (``num_classes=1``); None for boxes alone.
        fusion: "fvit" or "fvlm", see `regions.fuse_scores`.
        alpha: weight of CLIP's score for base classes and the background, 0..1.
        beta: weight of CLIP's score for novel classes, 0..1.
        clip_temperature: factor of CLIP's cosines before the softmax.
        background_weight: weight of the background in the classification loss.
        score_thresh: lowest score of a detection.
        nms_thresh: IoU threshold of the NMS within a class.
        detections_per_image: most detections per image; -1 for all.
        batch_size_per_image: regions sampled per training image.
        positive_fraction: largest share of foreground regions among them.
        match_best: match an object's best proposal to it, from IoU 0.5 on, even if it overlaps another object more
            (the released code on OV-LVIS).
        box_resolution: bins per side for the box head.
        mask_resolution: bins per side for the mask head.
        canonical_size: see `assign_levels`.
    """

    def __init__(
        self,
        strides: Sequence[float],
        box_head: nn.Module,
        classifier: CosineClassifier,
        mask_head: BaseMaskRCNNHead | None = None,
        fusion: str = "fvit",
        alpha: float = 0.1,
        beta: float = 0.8,
        clip_temperature: float = 75.0,
        background_weight: float = 0.6,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.4,
        detections_per_image: int = 100,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        match_best: bool = False,
        box_resolution: int = 7,
        mask_resolution: int = 14,
        canonical_size: float = 56.0,
    ) -> None:
        super().__init__(
            num_classes=0,  # of the vocabulary that a call brings
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=BoxMatcher(negative=0.5, positive=0.5, best=0.5 if match_best else None),
        )
        strides = strides[:-1]
        self.level_names = level_names(len(strides))
        self.box_pooler = RegionPooler(box_resolution, strides, canonical_size)
        self.mask_pooler = RegionPooler(mask_resolution, strides, canonical_size)
        self.box_head = box_head
        self.classifier = classifier
        self.mask_head: BaseMaskRCNNHead | None = mask_head
        self.box_transform = BoundedBoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
        self.fusion = fusion
        self.alpha = alpha
        self.beta = beta
        self.clip_temperature = clip_temperature
        self.background_weight = background_weight
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_image = detections_per_image

    def losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        vocabulary: Vocabulary,
    ) -> dict[str, Tensor]:
        """Compute the losses of sampled proposals.

        Args:
            features: outputs of the backbone.
            proposals: `proposal_boxes` and `objectness_logits` per image.
            targets: `gt_boxes`, `gt_classes` (base classes alone) and, for the mask head, `gt_masks` per image.
            vocabulary: the training vocabulary.

        Returns:
            ``loss_cls``, ``loss_box_reg`` and, with a mask head, ``loss_mask``.
        """
        self.num_classes = len(vocabulary)
        sampled = self.label_and_sample_proposals(proposals, targets)
        levels = [features[name] for name in self.level_names]
        boxes = torch.cat([x.proposal_boxes.tensor for x in sampled])
        labels = torch.cat([x.gt_classes for x in sampled])
        embeddings, deltas = self.box_head(self.box_pooler(levels, [x.proposal_boxes.tensor for x in sampled]))
        logits = self.classifier(embeddings, vocabulary)
        foreground, background = (labels >= 0) & (labels < self.num_classes), labels == self.num_classes
        # The proposals of an image without objects have no gt_boxes and are all background.
        matched = torch.cat([(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in sampled])
        wanted = self.box_transform.get_deltas(boxes, matched)
        losses = {
            "loss_cls": classification_loss(logits, labels, class_weights(vocabulary.is_base, self.background_weight)),
            "loss_box_reg": box_loss(deltas, wanted, foreground) / (labels >= 0).sum().clamp(min=1),
        }
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", foreground.sum() / len(sampled))
        storage.put_scalar("roi_head/num_bg_samples", background.sum() / len(sampled))
        hits = foreground & (logits[:, : self.num_classes].argmax(dim=1) == labels)
        storage.put_scalar("foreground_accuracy", hits.sum() / foreground.sum().clamp(min=1))
        if self.mask_head is not None:
            losses["loss_mask"] = self._mask_loss(self.mask_head, levels, sampled)
        return losses

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals to objects, add each object as a region of its own, and sample, regions of objects first.

        Detectron2's method adds the objects first, which leaves no proposal the best of an object. The class of a
        region is -1 where an image has too little background: it is in no loss.
        """
        sampled = []
        for found, target in zip(proposals, targets, strict=True):
            matches, labels = self.proposal_matcher(target.gt_boxes.tensor, found.proposal_boxes.tensor)
            matches = torch.cat([matches, torch.arange(len(target), device=matches.device)])
            labels = torch.cat([labels, labels.new_ones(len(target))])
            chosen, label = sample_labels(labels, self.batch_size_per_image, self.positive_fraction)
            regions = add_ground_truth_to_proposals([target], [found])[0][chosen]
            regions.gt_classes = label.long().masked_fill(label == 0, self.num_classes)
            if len(target):
                objects = target[matches[chosen]]
                regions.gt_classes = objects.gt_classes.where(label == 1, regions.gt_classes)
                regions.gt_boxes = objects.gt_boxes
                if self.mask_head is not None:
                    regions.gt_masks = objects.gt_masks
            sampled.append(regions)
        return sampled

    def _mask_loss(self, head: BaseMaskRCNNHead, levels: list[Tensor], sampled: list[Instances]) -> Tensor:
        # One wait for a GPU: batch norms see regions of objects alone, of which only the device knows the number.
        foreground = [(x.gt_classes >= 0) & (x.gt_classes < self.num_classes) for x in sampled]
        counts = torch.stack([x.sum() for x in foreground]).tolist()
        objects = [x[:count] for x, count in zip(sampled, counts, strict=True) if count]
        if not objects:
            # Batch norms cannot train on nothing, and the other ranks wait for this one: whole images with weight 0.
            wholes = [levels[0].new_tensor([[0, 0, *x.image_size[::-1]]]) for x in sampled]
            return head.layers(self.mask_pooler(levels, wholes)).float().sum() * 0.0
        boxes = [x.proposal_boxes.tensor[:count] for x, count in zip(sampled, counts, strict=True)]
        logits = head.layers(self.mask_pooler(levels, boxes))[:, 0]
        targets = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, logits.shape[-1]) for x in objects]
        return mask_loss(logits, torch.cat(targets)) * head.loss_weight

    def score(self, pooled: Tensor, embeddings: Tensor, boxes: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Score regions by the detector and by CLIP, and refine their boxes.

        Args:
            pooled: R x C x S x S, the regions' part of the pyramid.
            embeddings: R x D, the regions' part of the dense map.
            boxes: R x 4.
            vocabulary: K classes.

        Returns:
            R x K fused scores, without the background, and R x 4 boxes, which are not clipped.
        """
        hidden, deltas = self.box_head(pooled)
        detector_logprobs = self.classifier(hidden, vocabulary).log_softmax(dim=-1)
        clip_logprobs = vocabulary.log_probabilities(embeddings, self.clip_temperature)
        scores = fuse_scores(detector_logprobs, clip_logprobs, vocabulary.is_base, self.alpha, self.beta, self.fusion)
        return scores[:, :-1], self.box_transform.apply_deltas(deltas.float(), boxes)

    def detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        vocabulary: Vocabulary,
        dense_stride: float,
    ) -> list[Instances]:
        """Detect objects, in pixels of the input.

        Args:
            features: outputs of the backbone, including ``dense``.
            proposals: `proposal_boxes` per image.
            vocabulary: the classes to detect.
            dense_stride: stride of the dense map.

        Returns:
            `pred_boxes`, `scores`, `pred_classes` and, with a mask head, `pred_masks` (R x 1 x 28 x 28 probabilities)
            per image, best first.
        """
        levels = [features[name] for name in self.level_names]
        boxes = [x.proposal_boxes.tensor for x in proposals]
        counts = [len(b) for b in boxes]
        # CLIP scores the proposals, not the refined boxes (released code).
        embeddings = pool_boxes(features["dense"], boxes, dense_stride)
        scores, refined = self.score(self.box_pooler(levels, boxes), embeddings, torch.cat(boxes), vocabulary)
        detections = select_detections(
            refined.split(counts),
            scores.split(counts),
            [x.image_size for x in proposals],
            self.score_thresh,
            self.nms_thresh,
            self.detections_per_image,
        )
        if self.mask_head is not None:
            self.mask_head(self.mask_pooler(levels, [x.pred_boxes.tensor for x in detections]), detections)
        return detections
