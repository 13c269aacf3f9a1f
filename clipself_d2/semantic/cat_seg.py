"""CAT-Seg (Cho et al., CVPR 2024): open-vocabulary semantic segmentation by cost aggregation on any ViT tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor

from clipself_d2.backbones.frozen_tower import HoldsTower
from clipself_d2.clip.tower import ImageTower
from clipself_d2.data.image import result_size
from clipself_d2.errors import InputError
from clipself_d2.regions.interpolate import interpolate_in_chunks
from clipself_d2.regions.pixel_scores import new_result
from clipself_d2.semantic.aggregation import CostAggregator
from clipself_d2.semantic.cost import at_classes, class_embeddings, cost_volume, likely_classes, to_all_classes
from clipself_d2.semantic.decoder import UpsamplingDecoder
from clipself_d2.semantic.finetune import train_queries_and_values
from clipself_d2.semantic.inference import cut_windows, merge_windows, window_corners
from clipself_d2.semantic.loss import class_targets, count_among, draw_classes, pixel_loss
from clipself_d2.vocabulary import Vocabulary

Sample = dict[str, Any]

# Logit of a class that is left out for an image (released code).
_ABSENT = -100.0
# Most elements of the decoder's last maps that are in memory at once in evaluation.
_MAX_ELEMENTS = 2**27
# Most window scores in pixels that are merged at once: 128 MiB.
_MERGED_ELEMENTS = 2**25
# Most pixels of an image's long edge when its short edge is resized (released code).
_LONG_EDGE = 2560


class CATSeg(HoldsTower):
    """Return a loss in training and class scores in evaluation; the vocabulary is an argument of the call.

    Training uses the base classes of the vocabulary alone; pixels of other classes have no loss. The state dict has of
    the tower what trains (`HoldsTower`).

    Args:
        tower: a CLIP image tower, a plain ViT.
        vocabulary: the training vocabulary; the labels are indices into it.
        aggregator: maps costs to features.
        decoder: maps features to logits.
        size: side of the tower's square input in pixels, a multiple of its stride; 384 for B/16 and 336 for L/14 in
            CAT-Seg. Training crops are resized to it.
        blocks: 0-based blocks that guide the decoder, coarse to fine: 3 and 7 of B/16, 7 and 15 of L/14.
        trainable: train the queries and values of the tower's attention, see `train_queries_and_values`. The optimizer
            sets their learning rate.
        dense_mode: dense mode of the tower.
        test_vocabulary: default vocabulary in evaluation; None for the training vocabulary.
        train_classes: number of classes per training image, its own and random others, which saves time and memory;
            None for all (CAT-Seg).
        max_classes: most classes per image in evaluation: those with the highest cosine anywhere in the image. Others
            score 0.
        window: side of the sliding windows in pixels of the resized image; windows are resized to `size`. 0 for the
            whole image alone.
        image_size: side of the square that an image is resized to for its windows, from that length of its short edge.
        overlap: overlap of the windows, see `window_corners`.
        labels_only: see `ZeroShotSegmenter`.

    Raises:
        InputError: a ResNet; a size that is not a multiple of the stride; blocks that the tower does not have, or a
            number of blocks other than the decoder's; an image_size below the window; a vocabulary without base
            classes, or of another tower.
    """

    def __init__(
        self,
        tower: ImageTower,
        vocabulary: Vocabulary,
        aggregator: CostAggregator,
        decoder: UpsamplingDecoder,
        size: int,
        *,
        blocks: Sequence[int] = (3, 7),
        trainable: bool = True,
        dense_mode: str = "no_attn",
        test_vocabulary: Vocabulary | None = None,
        train_classes: int | None = None,
        max_classes: int = 256,
        window: int = 0,
        image_size: int = 640,
        overlap: float = 1 / 3,
        labels_only: bool = False,
    ) -> None:
        super().__init__()
        if not tower.single_scale:
            raise InputError("model: CAT-Seg is guided by the blocks of a ViT: clip.name must not be a ResNet")
        tower.check_size(size, "model.size")
        tower.check_blocks(blocks)
        tower.check_dense_mode(dense_mode)
        if len(blocks) != len(decoder.guidance):
            raise InputError(f"model.blocks={list(blocks)}: the decoder is guided by {len(decoder.guidance)} blocks")
        for name, count in (("train_classes", train_classes), ("max_classes", max_classes)):
            if count is not None and count < 1:
                raise InputError(f"model.{name}={count}: must be at least 1")
        self.corners = window_corners((image_size, image_size), window, overlap) if window else []
        for words in (vocabulary, test_vocabulary):
            if words is not None:
                words.check_embed_dim(tower.embed_dim)
        self.size = size
        self.blocks = list(blocks)
        self.trainable = trainable
        self.dense_mode = dense_mode
        self.train_classes = train_classes
        self.max_classes = max_classes
        self.window = window
        self.image_size = image_size
        self.labels_only = labels_only
        self.vocabulary = vocabulary
        self.base_vocabulary = vocabulary.only_base()
        self.test_vocabulary = vocabulary if test_vocabulary is None else test_vocabulary
        self.aggregator = aggregator
        self.decoder = decoder
        if trainable:
            train_queries_and_values(tower, dense_mode)
        self.hold_tower(tower, trainable)

    @property
    def device(self) -> torch.device:
        """The device of the tower."""
        return self.tower.pixel_mean.device

    def forward(self, inputs: list[Sample], vocabulary: Vocabulary | None = None) -> Any:
        """Run Detectron2's contract of a semantic segmentor.

        Args:
            inputs: samples with ``image`` (3 x H x W uint8 RGB). In training also ``sem_seg`` (H x W long: classes of
                the vocabulary, or ``ignore_label``, default 255), all of one size. In evaluation ``height`` and
                ``width`` give the frame of the results (default: the image's).
            vocabulary: the classes to segment; None for the model's own.

        Returns:
            In training ``{"loss_sem_seg": scalar}``; in evaluation ``{"sem_seg": K x H x W}`` per image, with scores in
            0..1. The class of a pixel is that of the highest score.

        Raises:
            InputError: a vocabulary of another tower; in training, labels that are missing, of another size than the
                image, or outside the vocabulary.
        """
        if vocabulary is not None:
            vocabulary.check_embed_dim(self.tower.embed_dim)
            vocabulary = vocabulary.to(self.device)
        if not self.training:
            return self._segment(inputs, vocabulary or self.test_vocabulary)
        return {"loss_sem_seg": self._loss(inputs, vocabulary or self.vocabulary)}

    def num_loss_items(self, inputs: Sequence[Sample]) -> int:
        """Return the number of pixels that the loss is a mean over."""
        targets = [class_targets(x, self.vocabulary) for x in inputs]
        return sum(int((target >= 0).sum()) for target in targets)

    def _loss(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> Tensor:
        base = self.base_vocabulary if vocabulary is self.vocabulary else vocabulary.only_base()
        labels = [class_targets(x, vocabulary) for x in inputs]
        if len({label.shape for label in labels}) > 1:
            raise InputError("training images have different sizes: give the mapper a crop that fits all (size)")
        images = torch.stack([x["image"].to(self.device, non_blocking=True) for x in inputs])
        targets = torch.stack(labels).to(self.device, non_blocking=True)
        classes = None
        if self.train_classes is not None and self.train_classes < len(base):
            classes = draw_classes(targets, len(base), self.train_classes)
            targets = count_among(targets, classes, len(base))
        return pixel_loss(self._aggregate(*self._cost(images, base), base, classes), targets)

    @torch.no_grad()
    def _segment(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> list[dict[str, Tensor]]:
        images = [self._resize_short_edge(x["image"].to(self.device, non_blocking=True)[None]) for x in inputs]
        wholes = self._logits(torch.cat([_resize(image, self.window or self.size) for image in images]), vocabulary)
        results = []
        for image, whole, x in zip(images, wholes, inputs, strict=True):
            size = result_size(x)
            result = new_result(self.labels_only, len(vocabulary), size, self.device)
            if self.window:
                windows = cut_windows(_resize(image, self.image_size)[0], self.corners, self.window)
                parts = self._merge(self._logits(windows, vocabulary), whole)
            else:
                parts = iter([(0, whole.float().sigmoid())])
            for first_class, scores in parts:
                for rows, chunk in interpolate_in_chunks(scores, size):
                    result.add(chunk, rows, first_class)
            results.append(result.result())
        return results

    def _resize_short_edge(self, image: Tensor) -> Tensor:
        """Resize the short edge of an image for its windows as Detectron2's test mapper does by Pillow."""
        if not self.window:
            return image
        size = ResizeShortestEdge.get_output_shape(*image.shape[-2:], self.image_size, _LONG_EDGE)
        size = [max(1, side) for side in size]
        return F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True).round()

    def _merge(self, windows: Tensor, whole: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Merge logits of windows, L x K x h x w, and of the whole image, K x h x w.

        Yields:
            The number of the first of some classes, and their scores k x image_size x image_size.
        """
        resized = (self.image_size, self.image_size)
        run = max(1, _MERGED_ELEMENTS // (len(windows) * self.window**2 + self.image_size**2))
        for start in range(0, len(whole), run):
            classes = slice(start, start + run)
            scores = _resize(windows[:, classes], self.window).sigmoid_()
            overall = _resize(whole[None, classes], self.window).sigmoid_()[0]
            yield start, merge_windows(scores, self.corners, resized, overall)

    def _logits(self, images: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Return logits N x K x h x w, a few images at once, of the `max_classes` most likely classes alone."""
        pixels = (self.decoder.scale * self.size // self.tower.stride) ** 2
        run = _MAX_ELEMENTS // (min(len(vocabulary), self.max_classes) * pixels * self.decoder.dims[-1])
        results = []
        for part in images.split(max(1, run)):
            cost, dense, maps = self._cost(part, vocabulary)
            if len(vocabulary) <= self.max_classes:
                results.append(self._aggregate(cost, dense, maps, vocabulary))
                continue
            classes = likely_classes(cost, self.max_classes)
            logits = self._aggregate(cost, dense, maps, vocabulary, classes)
            results.append(to_all_classes(logits, classes, len(vocabulary), _ABSENT))
        return torch.cat(results)

    def _cost(self, images: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the cost volume, dense map and guiding block maps of images, N x 3 x H x W in 0..255."""
        with nullcontext() if self.trainable else torch.no_grad():
            dense, maps = self.tower.features(
                self.tower.normalize(_resize(images, self.size)), self.blocks, self.dense_mode
            )
        return cost_volume(dense, vocabulary), dense, maps

    def _aggregate(
        self, cost: Tensor, dense: Tensor, maps: list[Tensor], vocabulary: Vocabulary, classes: Tensor | None = None
    ) -> Tensor:
        """Return logits N x T x h x w of the classes of each image (N x T indices), or of all classes."""
        text = class_embeddings(vocabulary).expand(len(cost), -1, -1)
        if classes is not None:
            cost, text = at_classes(cost, classes), at_classes(text, classes)
        return self.decoder(self.aggregator(cost, dense, text), maps)


def _resize(maps: Tensor, size: int) -> Tensor:
    """Resize maps N x C x H x W of any aspect to float squares, bilinear and not antialiased (released code)."""
    return F.interpolate(maps.float(), (size, size), mode="bilinear", align_corners=False)
