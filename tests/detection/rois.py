"""ROI heads whose arithmetic a loop can repeat, and what they are given."""

import math

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torchvision.ops import roi_align

from clipself_d2.detection import CosineClassifier, OpenVocabularyROIHeads
from tests.detection.tiny import build_words

STRIDES, SIDE = [3.5, 7, 14, 28], 112
VOCABULARY = build_words()
SEEN = VOCABULARY.is_base.tolist()


class LinearHead(nn.Module):
    """A box head whose arithmetic a loop can repeat: the mean of a region, twice projected."""

    def __init__(self, channels=4, length=16, scale=0.3):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(channels, length))
        self.deltas = nn.Parameter(torch.randn(channels, 4) * scale)

    def forward(self, regions):
        means = regions.mean(dim=(2, 3))
        return means @ self.embedding, means @ self.deltas


def build(**kwargs):
    return OpenVocabularyROIHeads(
        [*STRIDES, 56],
        kwargs.pop("box_head", None) or LinearHead(),
        kwargs.pop("classifier", CosineClassifier()),
        **kwargs,
    )


def features(images=2, channels=4):
    maps = {f"p{i + 2}": torch.randn(images, channels, *[int(SIDE / s)] * 2) for i, s in enumerate(STRIDES)}
    dense = nn.functional.normalize(torch.randn(images, 16, 8, 8), dim=1)
    return {**maps, "p6": torch.randn(images, channels, 2, 2), "dense": dense}


def random_boxes(count):
    corners = torch.rand(count, 2) * SIDE / 2
    return torch.cat([corners, corners + 6 + torch.rand(count, 2) * SIDE / 2], dim=1).clamp(max=SIDE)


def proposals(counts=(20, 15)):
    return [
        Instances((SIDE, SIDE), proposal_boxes=Boxes(random_boxes(n)), objectness_logits=torch.randn(n)) for n in counts
    ]


def targets(counts=(4, 3), masks=False):
    out = []
    for n in counts:
        boxes = random_boxes(n).round()
        out.append(Instances((SIDE, SIDE), gt_boxes=Boxes(boxes), gt_classes=torch.randint(0, 3, (n,))))
        if masks:
            drawn = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(drawn, boxes.int().tolist(), strict=True):
                mask[y0:y1, x0:x1] = True
            out[-1].gt_masks = BitMasks(drawn)
    return out


def pooled(maps, image, box, size=7):
    """One region, from the level that its side names."""
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = min(max(math.floor(math.log2(side / 56)), 0), 3)
    x = maps[f"p{level + 2}"][image : image + 1]
    return roi_align(x, [box[None]], size, 1 / STRIDES[level], 0, aligned=True)


def mask_head(bias=0.0):
    head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=1, conv_dims=[4] * 5, conv_norm="BN")
    nn.init.zeros_(head.predictor.weight)
    nn.init.constant_(head.predictor.bias, bias)
    return head
