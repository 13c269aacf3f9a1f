"""The region proposal network of F-ViT: Detectron2's RPN with the released code's head, anchors and matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from clipself_d2.backbones.pyramid import conv_stack, level_names
from clipself_d2.engine.errors import NonFiniteLossError


class RPNHead(nn.Module):
    """Two shared 3 x 3 convolutions with ReLU, then objectness and deltas of every anchor.

    Args:
        channels: of the levels.
        num_anchors: at a location.
        norm: Detectron2's name of a normalisation after each convolution; "" for none (OV-COCO), "SyncBN" (OV-LVIS).
        num_convs: of the shared convolutions.
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
        """Levels B x C x h x w -> for each B x A x h x w logits and B x 4A x h x w deltas, fp32 for the NMS."""
        hidden = [self.convs(level) for level in levels]
        return [self.objectness(x).float() for x in hidden], [self.deltas(x).float() for x in hidden]


class LowQualityMatcher(Matcher):
    """Detectron2's matcher whose additional matches (an object's best anchor) need an overlap too.

    Args:
        thresholds: see `Matcher`.
        labels: see `Matcher`.
        min_quality: least IoU of an additional match; 0.3 in the released code, none in Detectron2.
    """

    def __init__(self, thresholds: Sequence[float], labels: Sequence[int], min_quality: float = 0.3) -> None:
        super().__init__(list(thresholds), list(labels), allow_low_quality_matches=True)
        self.min_quality = min_quality

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """Label 1 for every element that is the best of a ground truth, where the overlap reaches `min_quality`."""
        best = match_quality_matrix.amax(dim=1, keepdim=True)
        chosen = (match_quality_matrix == best) & (best >= self.min_quality)
        match_labels[chosen.any(dim=0)] = 1


def train_rpn(
    rpn: RPN,
    images: ImageList,
    features: dict[str, Tensor],
    targets: Sequence[Instances],
    inputs: Sequence[Mapping[str, Any]],
) -> tuple[list[Instances], dict[str, Tensor]]:
    """Proposals and losses.

    Args:
        rpn: Detectron2's, in training.
        images: the batch.
        features: of the backbone.
        targets: with `gt_boxes`.
        inputs: the samples, which an error names.

    Raises:
        NonFiniteLossError: when training has diverged.
    """
    try:
        return rpn(images, features, targets)
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
    """The RPN of the released detectors on the levels ``p2``, ``p3``, ...

    Args:
        strides: of the levels, any numbers.
        channels: of the levels.
        norm: of the head's convolutions, see `RPNHead`.
        anchor_scale: side of a level's anchor over the level's stride.
        aspect_ratios: height over width of the anchors.
        batch_size_per_image: anchors that are trained on in an image, half of them on objects.
        pre_nms_topk: candidates of a level before the NMS, in training and in evaluation.
        post_nms_topk: proposals of an image, in training and in evaluation.
        nms_thresh: of the NMS.
        loss_weight: of both losses.
    """
    return RPN(
        in_features=level_names(len(strides)),
        head=RPNHead(channels, len(aspect_ratios), norm),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[anchor_scale * stride] for stride in strides],
            aspect_ratios=list(aspect_ratios),
            strides=list(strides),
            offset=0.0,
        ),
        anchor_matcher=LowQualityMatcher([0.3, 0.7], [0, -1, 1], min_quality=0.3),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=batch_size_per_image,
        positive_fraction=0.5,
        pre_nms_topk=tuple(pre_nms_topk),
        post_nms_topk=tuple(post_nms_topk),
        nms_thresh=nms_thresh,
        loss_weight=float(loss_weight),
    )
