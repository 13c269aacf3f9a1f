"""F-ViT with a fixed vocabulary for other runtimes: ONNX and torch.export, one image of a fixed size."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from clipself_d2.clip.export import load_program, write_program
from clipself_d2.detection.fvit import FViT
from clipself_d2.detection.pooler import assign_levels
from clipself_d2.detection.rpn import OpenVocabularyRPN
from clipself_d2.detection.suppression import MAX_CANDIDATES, best_candidates, clip_boxes, rows, suppress


class FixedDetector(nn.Module):
    """What is exported: one letterboxed image in, boxes with their scores and classes out.

    The arithmetic is that of `FViT`, with shapes that do not depend on the image. Differences: each region is pooled
    from all levels of the pyramid, of which one counts; the suppression sees `MAX_CANDIDATES` candidates and no more,
    in float32; masks are left out.

    Args:
        model: an F-ViT, on the CPU, in evaluation mode; its own vocabulary is the fixed one.
    """

    def __init__(self, model: FViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects.

        Args:
            image: 1 x 3 x S x S float RGB, 0..255: an image whose longest side is S, in the upper left.
            size: its height and width, 2 floats, at most S; rows and columns beyond do not count.

        Returns:
            D x 4 boxes in pixels of the square, D scores and D class numbers, best first.
        """
        model = self.model
        side = torch.arange(model.size, device=image.device)
        inside = (side[:, None] < size[0].round()) & (side < size[1].round())
        pixels = ((image - model.pixel_mean) / model.pixel_std).where(inside, 0.0)
        features = model.backbone(pixels, padded_size=model.size)
        limits = size.flip(0).repeat(2)[None]
        proposals, counts = self._propose(features, limits)
        return self._detect(features, proposals, counts, limits)

    def _propose(self, features: dict[str, Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
        rpn = self.model.rpn
        assert isinstance(rpn, OpenVocabularyRPN)
        levels = [features[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(levels)
        boxes, _, counts, _ = rpn.choose(
            rpn.anchor_generator(levels),
            [x.permute(0, 2, 3, 1).flatten(1) for x in logits],
            [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas],
            limits,
        )
        return boxes, counts

    def _detect(
        self, features: dict[str, Tensor], proposals: Tensor, counts: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, vocabulary = self.model.roi_heads, self.model.vocabulary
        boxes = proposals[0]
        rois = F.pad(boxes, (1, 0))  # of image 0
        levels = assign_levels(boxes, len(heads.level_names), heads.box_pooler.canonical_size)
        pooled = reduce(
            torch.add,
            (
                _pool(features[name], rois, stride, heads.box_pooler.output_size)
                * (levels == number)[:, None, None, None]
                for number, (name, stride) in enumerate(zip(heads.level_names, heads.box_pooler.strides, strict=True))
            ),
        )
        stride = self.model.backbone.size_divisibility
        dense = F.normalize(_pool(features["dense"], rois, stride, 1).flatten(1), dim=-1, eps=1e-12)
        scores, refined = heads.score(pooled, dense, boxes, vocabulary)
        refined = clip_boxes(refined[None], limits)
        counted = torch.arange(len(boxes), device=boxes.device) < counts
        table = scores.where((scores > heads.score_thresh) & counted[:, None], -torch.inf).flatten()[None]
        index, found, _ = best_candidates(table, MAX_CANDIDATES)
        candidates, classes = rows(refined, index // len(vocabulary)), index % len(vocabulary)
        kept, counts = suppress(candidates, found, classes, heads.nms_thresh, heads.detections_per_image)
        kept = kept[0][torch.arange(kept.shape[1], device=boxes.device) < counts]
        return candidates[0][kept], found[0][kept], classes[0][kept]


def _pool(level: Tensor, rois: Tensor, stride: float, bins: int) -> Tensor:
    return roi_align(level.float(), rois, bins, 1 / stride, sampling_ratio=-1, aligned=True)


def write_detector(model: FViT, path: Path) -> FixedDetector:
    """Write a detector with its own vocabulary to a `.onnx` or `.pt2`."""
    detector = FixedDetector(model)
    write_program(detector, example(model), ["boxes", "scores", "classes"], path)
    return detector


def example(model: FViT, height: int | None = None) -> dict[str, Tensor]:
    """An image of noise, `height` rows high (default: the square), as `FixedDetector` takes it."""
    height = model.size if height is None else height
    image = torch.zeros(1, 3, model.size, model.size)
    generator = torch.Generator().manual_seed(height)
    image[:, :, :height] = torch.randint(256, (3, height, model.size), generator=generator).float()
    return {"image": image, "size": torch.tensor([float(height), float(model.size)])}


@torch.no_grad()
def compare_detections(model: FViT, path: Path) -> float:
    """Run a written file on images of three heights, beside the detector.

    Returns:
        The largest difference of a detection to the nearest of its class in the other list: of the score, or of a
        coordinate as a part of the side; infinity for one of a class that the other lacks.
    """
    run, worst = load_program(path), 0.0
    for height in (model.size, model.size * 3 // 4, model.size // 2):
        inputs = example(model, height)
        [found] = model([{"image": inputs["image"][0, :, :height].byte()}])
        ours = found["instances"]
        theirs = run(*inputs.values())
        distance = torch.cdist(
            torch.cat([ours.pred_boxes.tensor / model.size, ours.scores[:, None]], dim=1),
            torch.cat([theirs[0] / model.size, theirs[1][:, None]], dim=1),
            p=torch.inf,
        )
        distance = distance.where(ours.pred_classes[:, None] == theirs[2], torch.inf)
        if bool(len(ours)) != bool(len(theirs[1])):
            return torch.inf
        if len(ours):
            worst = max(worst, float(distance.amin(dim=0).max()), float(distance.amin(dim=1).max()))
    return worst
