"""The region proposal network of F-ViT: Detectron2's RPN with the head, anchors and matching of the released code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from clipself_d2.backbones.pyramid import conv_stack, level_names
from clipself_d2.clip.positions import TableCache
from clipself_d2.detection.box_transform import BoundedBoxTransform
from clipself_d2.detection.losses import box_loss
from clipself_d2.detection.matching import BoxMatcher
from clipself_d2.detection.sampling import Sample, sample_labels
from clipself_d2.detection.suppression import box_limits, clip_boxes, rows, suppress
from clipself_d2.engine.errors import NonFiniteLossError


class RPNHead(nn.Module):
    """Shared 3 x 3 convolutions with ReLU, then the objectness and the deltas of each anchor.

    Detectron2's `StandardRPNHead` has no norm after its convolutions.

    Args:
        channels: channels of the levels.
        num_anchors: anchors per location.
        norm: Detectron2's name of the norm after each convolution: "" for none (OV-COCO), "SyncBN" (OV-LVIS).
        num_convs: number of shared convolutions.
    """

    def __init__(self, channels: int = 256, num_anchors: int = 3, norm: str = "", num_convs: int = 2) -> None:
        super().__init__()
        self.convs = conv_stack(channels, num_convs, norm)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map levels B x C x h x w to B x A x h x w logits and B x 4A x h x w deltas per level, fp32 for the NMS."""
        hidden = [self.convs(level) for level in levels]
        return [self.objectness(x).float() for x in hidden], [self.deltas(x).float() for x in hidden]


class AnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's generator, which makes anchors on the CPU and copies them level by level: here once for a size."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tables = TableCache()

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Return the anchors of each level."""
        key = (features[0].device, *(level.shape[-2:] for level in features))
        return self.tables.get(key, lambda: super(AnchorGenerator, self).forward(features))


class OpenVocabularyRPN(RPN):
    """Detectron2's `RPN`, whose `anchor_matcher` is a `BoxMatcher`.

    It trains on a fixed number of anchors and chooses all images' proposals at once: a GPU is not waited for.
    """

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[Sample, Tensor]:
        """Draw anchors of each image, B x S, and return them with the box that each matches, B x S x 4."""
        boxes = Boxes.cat(anchors).tensor
        matches, labels = zip(*(self.anchor_matcher(x.gt_boxes.tensor, boxes) for x in gt_instances), strict=True)
        sample = sample_labels(torch.stack(labels), self.batch_size_per_image, self.positive_fraction)
        matched = [
            x.gt_boxes.tensor[match[index]] if len(x) else boxes[index]
            for x, match, index in zip(gt_instances, matches, sample.indices, strict=True)
        ]
        return sample, torch.stack(matched)

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        sample: Sample,
        pred_anchor_deltas: list[Tensor],
        matched: Tensor,
    ) -> dict[str, Tensor]:
        """Compute ``loss_rpn_cls`` and ``loss_rpn_loc`` (L1), divided by the largest number of sampled anchors.

        Args:
            anchors: A_i per level.
            pred_objectness_logits: B x A_i per level.
            sample: see `label_and_sample_anchors`.
            pred_anchor_deltas: B x A_i x 4 per level.
            matched: see `label_and_sample_anchors`.
        """
        index, labels = sample
        positive = labels == 1
        logits = torch.cat(pred_objectness_logits, dim=1).gather(1, index)
        deltas = rows(torch.cat(pred_anchor_deltas, dim=1), index)
        boxes = Boxes.cat(anchors).tensor[index]
        targets = self.box2box_transform.get_deltas(boxes.flatten(0, 1), matched.flatten(0, 1))
        objectness = F.binary_cross_entropy_with_logits(
            logits, positive.float(), weight=(labels >= 0).float(), reduction="sum"
        )
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum() / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum() / len(labels))
        losses = {
            "loss_rpn_cls": objectness,
            "loss_rpn_loc": box_loss(deltas.flatten(0, 1), targets, positive.flatten()),
        }
        most = self.batch_size_per_image * len(labels)
        return {name: loss / most * self.loss_weight[name] for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Return per image the best boxes of all levels, as Detectron2's method does.

        Args:
            anchors: A_i per level.
            pred_objectness_logits: B x A_i per level.
            pred_anchor_deltas: B x A_i x 4 per level.
            image_sizes: height and width of the images.

        Raises:
            FloatingPointError: in training, if logits or deltas of the best anchors are not finite.
        """
        limits = box_limits(image_sizes, pred_anchor_deltas[0])
        boxes, scores, counts, finite = self.choose(anchors, pred_objectness_logits, pred_anchor_deltas, limits)
        *lengths, all_finite = torch.cat([counts, finite[None]]).tolist()
        if self.training and not all_finite:
            raise FloatingPointError("logits or deltas are not finite")
        return [
            Instances(size, proposal_boxes=Boxes(box[:length]), objectness_logits=score[:length])
            for size, length, box, score in zip(image_sizes, lengths, boxes, scores, strict=True)
        ]

    def choose(
        self, anchors: list[Boxes], pred_logits: list[Tensor], pred_deltas: list[Tensor], limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`predict_proposals` without a copy to the host.

        Args:
            anchors: see there.
            pred_logits: see there.
            pred_deltas: see there.
            limits: B x 4, the `box_limits` of the images.

        Returns:
            B x M x 4 boxes and B x M logits, best first; B, how many of them count; and whether all were finite.
        """
        most = self.pre_nms_topk[self.training]
        best = [logits.topk(min(most, logits.shape[1]), dim=1) for logits in pred_logits]
        logits = torch.cat([each.values for each in best], dim=1)
        levels = torch.cat([torch.full_like(each.indices, level) for level, each in enumerate(best)], dim=1)
        places = torch.cat([boxes.tensor[each.indices] for boxes, each in zip(anchors, best, strict=True)], dim=1)
        deltas = torch.cat([rows(x, each.indices) for x, each in zip(pred_deltas, best, strict=True)], dim=1)
        boxes = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), places.flatten(0, 1)).view_as(places)
        finite = boxes.isfinite().all(dim=2) & logits.isfinite()
        boxes = clip_boxes(boxes.where(finite[..., None], 0), limits)
        valid = finite & (boxes[..., 2:] - boxes[..., :2] > self.min_box_size).all(dim=2)
        scores = logits.where(valid, -torch.inf)
        kept, counts = suppress(boxes, scores, levels, self.nms_thresh, self.post_nms_topk[self.training])
        return rows(boxes, kept), scores.gather(1, kept), counts, finite.all()


@contextmanager
def name_batch(inputs: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Turn the error of Detectron2's RPN for proposals that are not finite into one that names the images.

    Args:
        inputs: the training samples.

    Raises:
        NonFiniteLossError: if training has diverged.
    """
    try:
        yield
    except FloatingPointError as error:
        ids = [x.get("image_id", x.get("file_name", "?")) for x in inputs]
        raise NonFiniteLossError(f"proposals are not finite; image ids of the batch: {ids}") from error


def build_rpn(
    strides: Sequence[float],
    channels: int = 256,
    norm: str = "",
    anchor_scale: float = 8.0,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    batch_size_per_image: int = 256,
    pre_nms_topk: tuple[int, int] = (2000, 2000),
    post_nms_topk: tuple[int, int] = (1000, 1000),
    nms_thresh: float = 0.7,
    loss_weight: float = 1.0,
) -> RPN:
    """Build the RPN of the released detectors on the levels ``p2``, ``p3``, ...

    Args:
        strides: strides of the levels, any positive numbers.
        channels: channels of the levels.
        norm: see `RPNHead`.
        anchor_scale: side of the anchors of a level, as a multiple of its stride.
        aspect_ratios: height / width of the anchors.
        batch_size_per_image: anchors sampled per training image, up to half of them on objects.
        pre_nms_topk: candidates per level before the NMS, in training and in evaluation.
        post_nms_topk: proposals per image, in training and in evaluation.
        nms_thresh: IoU threshold of the NMS.
        loss_weight: weight of both losses.
    """
    return OpenVocabularyRPN(
        in_features=level_names(len(strides)),
        head=RPNHead(channels, len(aspect_ratios), norm),
        anchor_generator=AnchorGenerator(
            sizes=[[anchor_scale * stride] for stride in strides],
            aspect_ratios=list(aspect_ratios),
            strides=list(strides),
            offset=0.0,
        ),
        anchor_matcher=BoxMatcher(negative=0.3, positive=0.7, best=0.3),
        box2box_transform=BoundedBoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=batch_size_per_image,
        positive_fraction=0.5,
        pre_nms_topk=tuple(pre_nms_topk),
        post_nms_topk=tuple(post_nms_topk),
        nms_thresh=nms_thresh,
        loss_weight=float(loss_weight),
    )
