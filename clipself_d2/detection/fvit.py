"""F-ViT: a two-stage open-vocabulary detector on a (frozen) CLIP image tower (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from clipself_d2.backbones.clip_backbone import CLIPBackbone
from clipself_d2.data.image import result_size
from clipself_d2.detection.roi_heads import OpenVocabularyROIHeads
from clipself_d2.detection.rpn import name_batch
from clipself_d2.detection.suppression import box_limits, clip_boxes
from clipself_d2.errors import InputError
from clipself_d2.regions import PackedMasks
from clipself_d2.vocabulary import Vocabulary

PIXEL_STATS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "clip": ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)),
}
"""RGB mean and standard deviation of pixels in 0..255."""

_PASTED_PIXELS = 2**26  # of the masks that are pasted at once: 64 MiB, and 0.8 GiB for it on GPUs


class FViT(nn.Module):
    """Return losses in training and detections in evaluation; the vocabulary is an argument of the call.

    Args:
        backbone: gives the pyramid and the dense map.
        rpn: Detectron2's region proposal network on the pyramid.
        roi_heads: the second stage.
        vocabulary: the training vocabulary, with a background; also the default of a call.
        size: side of the square input in pixels, a multiple of the tower's stride.
        pixel_stats: "imagenet" or "clip". The released detectors use "imagenet", although the towers are trained with
            "clip".
        antialias: in evaluation, antialias images that are made smaller; as the mapper does in training
            (`DetectionMapper`). The released code does not.
        skip_padding: in evaluation, crop a batch to the extent of its images (a quarter less for 4:3 images), with the
            position embeddings of the square. False pads to the square, as training and the released code do.

    Raises:
        InputError: a size that is not a multiple of the stride, strides other than the backbone's, unknown pixel_stats,
            or a vocabulary of another tower or without a background.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: CLIPBackbone,
        rpn: RPN,
        roi_heads: OpenVocabularyROIHeads,
        vocabulary: Vocabulary,
        size: int,
        pixel_stats: str = "imagenet",
        antialias: bool = False,
        skip_padding: bool = False,
    ) -> None:
        super().__init__()
        backbone.tower.check_size(size, "model.size")
        for name, strides in (("rpn", rpn.anchor_generator.strides), ("roi_heads", roi_heads.box_pooler.strides)):
            if list(strides) != backbone.strides[: len(strides)]:
                raise InputError(f"model.{name}.strides={list(strides)}: the backbone's levels have {backbone.strides}")
        if pixel_stats not in PIXEL_STATS:
            raise InputError(f"model.pixel_stats={pixel_stats!r}: use one of {', '.join(PIXEL_STATS)}")
        self.antialias = antialias
        self.skip_padding = skip_padding
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.vocabulary = vocabulary
        self.size = size
        self._check(vocabulary)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in PIXEL_STATS[pixel_stats])
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        for module in self.modules():
            if isinstance(module, NaiveSyncBatchNorm):
                module.register_forward_pre_hook(_in_fp32)

    def forward(self, inputs: list[dict[str, Any]], vocabulary: Vocabulary | None = None) -> Any:
        """Run Detectron2's contract of a detector.

        Args:
            inputs: samples with `image` (3 x H x W uint8 RGB). In training also `instances` in pixels of the image, and
                no side is longer than `size`. In evaluation `height` and `width` give the frame of the results
                (default: the image's).
            vocabulary: the classes to detect; None for the model's own.

        Returns:
            In training losses by name; in evaluation `{"instances": Instances}` per image, in its pixels: `pred_boxes`,
            `scores`, `pred_classes` and, with a mask head, `pred_masks` (`PackedMasks`), best first.

        Raises:
            InputError: a vocabulary of another tower or without a background; in training, an object of a novel class
                or of a class outside the vocabulary.
            NonFiniteLossError: if training has diverged.
        """
        if vocabulary is None:
            vocabulary = self.vocabulary
        else:
            self._check(vocabulary)
            vocabulary = vocabulary.to(self.pixel_mean.device)
        if self.training:
            return self._losses(inputs, vocabulary)
        return self._detect(inputs, vocabulary)

    @torch.no_grad()
    def propose(self, inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """Return the RPN's `proposal_boxes` and `objectness_logits` per image, best first; inputs as in evaluation."""
        images = self._letterbox(inputs)
        proposals, _ = self.rpn(images, self.backbone(images.tensor, padded_size=self.size), None)
        return [detector_postprocess(p, *result_size(x)) for p, x in zip(proposals, inputs, strict=True)]

    def _losses(self, inputs: list[dict[str, Any]], vocabulary: Vocabulary) -> dict[str, Tensor]:
        _check_labels(inputs, vocabulary)
        images = self._pad([x["image"] for x in inputs])
        targets = [_to_device(x["instances"], self.pixel_mean.device) for x in inputs]
        features = self.backbone(images.tensor)
        with name_batch(inputs):
            proposals, losses = self.rpn(images, features, targets)
        return {**losses, **self.roi_heads.losses(features, proposals, targets, vocabulary)}

    @torch.no_grad()
    def _detect(self, inputs: list[dict[str, Any]], vocabulary: Vocabulary) -> list[dict[str, Instances]]:
        images = self._letterbox(inputs)
        features = self.backbone(images.tensor, padded_size=self.size)
        proposals, _ = self.rpn(images, features, None)
        detections = self.roi_heads.detect(features, proposals, vocabulary, self.backbone.size_divisibility)
        return [{"instances": _to_image(d, result_size(x))} for d, x in zip(detections, inputs, strict=True)]

    def _pad(self, images: Sequence[Tensor]) -> ImageList:
        """Normalize images of pixels in 0..255 and put each in the upper left of a square of zeros."""
        device = self.pixel_mean.device
        batch = torch.zeros(len(images), 3, self.size, self.size, device=device)
        for square, image in zip(batch, images, strict=True):
            height, width = image.shape[1:]
            if max(height, width) > self.size:
                raise InputError(
                    f"a training image is {width} x {height} pixels, the model's size is {self.size}: "
                    "give the mapper the same size"
                )
            pixels = image.to(device, non_blocking=True).float()
            square[:, :height, :width] = (pixels - self.pixel_mean) / self.pixel_std
        return ImageList(batch, [tuple(image.shape[1:]) for image in images])

    def _letterbox(self, inputs: Sequence[dict[str, Any]]) -> ImageList:
        """`_pad` images after a bilinear resize of the longest side to the square's, as in training."""
        resized, sizes = [], []
        for x in inputs:
            image = x["image"].to(self.pixel_mean.device, non_blocking=True).float()
            # Sizes are not rounded, which returns results to the original image by the exact factor.
            height, width = (side * self.size / max(image.shape[1:]) for side in image.shape[1:])
            content = max(1, round(height)), max(1, round(width))
            resized.append(F.interpolate(image[None], content, mode="bilinear", antialias=self.antialias)[0])
            sizes.append((height, width))
        batch = self._pad(resized).tensor
        if self.skip_padding:
            # Levels must halve evenly down to the coarsest one in the pyramid's top-down sum.
            step = int(self.backbone.strides[-2])
            height, width = (
                min(self.size, step * math.ceil(max(lengths) / step))
                for lengths in zip(*(image.shape[1:] for image in resized), strict=True)
            )
            batch = batch[:, :, :height, :width]
        return ImageList(batch, sizes)

    def _check(self, vocabulary: Vocabulary) -> None:
        vocabulary.check_embed_dim(self.backbone.tower.embed_dim)
        if vocabulary.background is None:
            raise InputError(
                "vocabulary: a detector needs a background: Vocabulary.from_classes(..., background='background')"
            )


def _to_image(detections: Instances, size: tuple[int, int]) -> Instances:
    """What `detector_postprocess` computes, without waiting for a GPU, and with masks packed a few at a time."""
    fields = detections.get_fields()
    boxes = fields.pop("pred_boxes")
    boxes.scale(*(new / old for new, old in zip(size[::-1], detections.image_size[::-1], strict=True)))
    limits = box_limits([size], boxes.tensor)
    found = Instances(size, pred_boxes=Boxes(clip_boxes(boxes.tensor[None], limits)[0]), **fields)
    if found.has("pred_masks"):
        few = max(1, _PASTED_PIXELS // (size[0] * size[1]))
        parts = zip(found.pred_masks[:, 0].split(few), found.pred_boxes.tensor.split(few), strict=True)
        pasted = (PackedMasks.pack(paste_masks_in_image(*part, size).bool()) for part in parts)
        found.pred_masks = PackedMasks(torch.cat(list(pasted)), size[1])
    return found


def _to_device(targets: Instances, device: torch.device) -> Instances:
    """`Instances.to` without a wait, which Detectron2's boxes do not offer."""
    fields = dict(targets.get_fields())
    boxes = Boxes(fields.pop("gt_boxes").tensor.to(device, non_blocking=True))
    moved = {name: field.to(device, non_blocking=True) for name, field in fields.items()}
    return Instances(targets.image_size, gt_boxes=boxes, **moved)


def _in_fp32(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Cast to fp32: Detectron2's own synchronized batch norm subtracts large numbers, too coarse in bfloat16."""
    return (args[0].float(),)


def _check_labels(inputs: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> None:
    names = vocabulary.names
    for x in inputs:
        for label in x["instances"].gt_classes.unique().tolist():
            where = f"{x.get('file_name', 'a training image')}: has an object of"
            if not 0 <= label < len(names):
                raise InputError(
                    f"{where} class {label}, the vocabulary's {len(names)} classes count from 0: "
                    "train on the data set that the vocabulary is of"
                )
            if names[label] in vocabulary.novel:
                raise InputError(
                    f"{where} {names[label]!r}, which the vocabulary calls novel: "
                    "train on a data set of base classes (datasets/prepare_splits.py)"
                )
