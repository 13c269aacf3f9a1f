"""CAT-Seg (Cho et al., CVPR 2024): open-vocabulary semantic segmentation by cost aggregation, on any ViT tower."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from clipself_d2.backbones.frozen_tower import HoldsTower
from clipself_d2.clip.tower import ImageTower
from clipself_d2.data.image import result_size
from clipself_d2.errors import InputError
from clipself_d2.semantic.aggregation import CostAggregator
from clipself_d2.semantic.cost import at_classes, class_embeddings, cost_volume, likely_classes, to_all_classes
from clipself_d2.semantic.decoder import UpsamplingDecoder
from clipself_d2.semantic.finetune import train_queries_and_values
from clipself_d2.semantic.inference import cut_windows, merge_windows, resize_scores, window_corners
from clipself_d2.semantic.loss import class_targets, count_among, draw_classes, pixel_loss
from clipself_d2.vocabulary import Vocabulary

Sample = dict[str, Any]

# Logit of a class that an image is not asked about (released code).
_ABSENT = -100.0
# Most elements of the decoder's last maps, or of the windows' scores in pixels, that are held at once in evaluation.
_MAX_ELEMENTS = 2**27


@META_ARCH_REGISTRY.register()
class CATSeg(HoldsTower):
    """A loss in training, scores of classes in evaluation; the vocabulary is an argument of the call.

    It is trained on the seen classes of its vocabulary alone: the others are not asked about, and pixels of theirs have
    no loss. A tower that trains is part of the state dict, a frozen one is not (`HoldsTower`).

    Args:
        tower: a CLIP image tower, a plain ViT.
        vocabulary: the training vocabulary, whose classes the labels count.
        aggregator: costs to features.
        decoder: features to logits.
        size: side of the tower's square input in pixels, a multiple of its stride: CAT-Seg's are 384 for B/16 and 336
            for L/14. Training crops are resized to it.
        blocks: those, counted from 0, that guide the decoder, coarse to fine: 3 and 7 of B/16, 7 and 15 of L/14.
        trainable: train the queries and values of the tower's attention (`train_queries_and_values`); their learning
            rate is the optimiser's matter.
        dense_mode: dense mode of the tower.
        test_vocabulary: the classes that a call without a vocabulary looks for in evaluation. None: the training ones.
        train_classes: a training image is asked about so many classes, its own and others drawn at random, which saves
            time and memory. None: about all (CAT-Seg).
        max_classes: in evaluation an image is asked about no more classes than these, those of the highest cosine
            anywhere in it; the others score 0.
        window: side of the sliding windows in pixels of the canvas, resized to `size`; 0 for the whole image alone.
        canvas: side of the square that an image is resized to for its windows.
        overlap: of the windows, see `window_corners`.

    Raises:
        InputError: for a ResNet; a size that is no multiple of the stride; blocks that the tower has not, or another
            number than guide the decoder; a canvas that is smaller than the window; a vocabulary without a seen class,
            or of another tower.
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
        canvas: int = 640,
        overlap: float = 1 / 3,
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
        self.corners = window_corners((canvas, canvas), window, overlap) if window else []
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
        self.canvas = canvas
        self.vocabulary = vocabulary
        self.seen = vocabulary.only_base()
        self.test_vocabulary = vocabulary if test_vocabulary is None else test_vocabulary
        self.aggregator = aggregator
        self.decoder = decoder
        if trainable:
            train_queries_and_values(tower, dense_mode)
            self.trained_tower = tower
        else:
            self.hold_tower(tower)

    @property
    def device(self) -> torch.device:
        """Where the images are brought to."""
        return self.tower.pixel_mean.device

    def forward(self, inputs: list[Sample], vocabulary: Vocabulary | None = None) -> Any:
        """Detectron2's contract of a semantic segmentor.

        Args:
            inputs: samples with ``image`` (3 x H x W uint8 RGB) and, in training, ``sem_seg`` (H x W long: classes of
                the vocabulary, or ``ignore_label``, 255 where that is not given), all of one size. In evaluation
                ``height`` and ``width`` say the frame of the results; default is the image's.
            vocabulary: the classes to look for; None for the model's own.

        Returns:
            In training ``{"loss_sem_seg": scalar}``; in evaluation for each image ``{"sem_seg": K x H x W}``, scores of
            each class in 0..1, of which the best is a pixel's.

        Raises:
            InputError: a vocabulary of another tower; in training, labels that are missing, of another size than the
                image, or no class of the vocabulary.
        """
        if vocabulary is not None:
            vocabulary.check_embed_dim(self.tower.embed_dim)
            vocabulary = vocabulary.to(self.device)
        if not self.training:
            return self._segment(inputs, vocabulary or self.test_vocabulary)
        return {"loss_sem_seg": self._loss(inputs, vocabulary or self.vocabulary)}

    def num_loss_items(self, inputs: Sequence[Sample]) -> int:
        """How many pixels have a loss: what the loss is a mean over."""
        targets = [class_targets(x, self.vocabulary) for x in inputs]
        return sum(int((target >= 0).sum()) for target in targets)

    def _loss(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> Tensor:
        seen = self.seen if vocabulary is self.vocabulary else vocabulary.only_base()
        if not inputs:  # on several ranks a batch may be empty, yet every rank has gradients
            blank = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
            inputs = [{"image": blank, "sem_seg": blank[0].long(), "ignore_label": 0}]
        labels = [class_targets(x, vocabulary) for x in inputs]
        if len({label.shape for label in labels}) > 1:
            raise InputError("training images have different sizes: give the mapper a crop that fits all (size)")
        images = torch.stack([x["image"].to(self.device, non_blocking=True) for x in inputs])
        targets = torch.stack(labels).to(self.device, non_blocking=True)
        classes = None
        if self.train_classes is not None and self.train_classes < len(seen):
            classes = draw_classes(targets, len(seen), self.train_classes)
            targets = count_among(targets, classes, len(seen))
        return pixel_loss(self._aggregate(*self._cost(images, seen), seen, classes), targets)

    @torch.no_grad()
    def _segment(self, inputs: Sequence[Sample], vocabulary: Vocabulary) -> list[dict[str, Tensor]]:
        if not inputs:
            return []
        images = [x["image"].to(self.device, non_blocking=True)[None] for x in inputs]
        wholes = torch.cat([_resize(image, self.size) for image in images])
        run = self._images_at_once(len(vocabulary))
        logits = torch.cat([self._evaluate(part, vocabulary) for part in wholes.split(run)])
        if not self.window:
            return [
                {"sem_seg": resize_scores(logit.float().sigmoid(), result_size(x))}
                for logit, x in zip(logits, inputs, strict=True)
            ]
        results = []
        for image, whole, x in zip(images, logits, inputs, strict=True):
            windows = cut_windows(_resize(image, self.canvas)[0], self.corners, self.window)
            parts = [self._evaluate(part, vocabulary) for part in windows.split(run)]
            results.append({"sem_seg": self._merge(torch.cat(parts), whole, result_size(x))})
        return results

    def _merge(self, windows: Tensor, whole: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of the windows, L x K x h x w, and of the whole image, K x h x w, to scores K x H x W.

        In pixels of the canvas there are only some classes at a time: 847 of them take 7 GB.
        """
        result = whole.new_empty(len(whole), *size, dtype=torch.float32)
        canvas = (self.canvas, self.canvas)
        run = max(1, _MAX_ELEMENTS // (len(windows) * self.window**2 + self.canvas**2))
        for start in range(0, len(whole), run):
            classes = slice(start, start + run)
            scores = _enlarge(windows[:, classes], self.window).sigmoid_()
            overall = _enlarge(whole[None, classes], self.window).sigmoid_()[0]
            result[classes] = resize_scores(merge_windows(scores, self.corners, canvas, overall), size)
        return result

    def _evaluate(self, images: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Logits of all classes, N x K x h x w; of the likely ones alone where there are too many."""
        cost, dense, maps = self._cost(images, vocabulary)
        if len(vocabulary) <= self.max_classes:
            return self._aggregate(cost, dense, maps, vocabulary)
        classes = likely_classes(cost, self.max_classes)
        logits = self._aggregate(cost, dense, maps, vocabulary, classes)
        return to_all_classes(logits, classes, len(vocabulary), _ABSENT)

    def _cost(self, images: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Of images, N x 3 x H x W in 0..255, the cost volume, the dense map and the maps that guide the decoder."""
        with nullcontext() if self.trainable else torch.no_grad():
            dense, maps = self.tower.features(
                self.tower.normalize(_resize(images, self.size)), self.blocks, self.dense_mode
            )
        return cost_volume(dense, vocabulary), dense, maps

    def _aggregate(
        self, cost: Tensor, dense: Tensor, maps: list[Tensor], vocabulary: Vocabulary, classes: Tensor | None = None
    ) -> Tensor:
        """Logits of each image's classes, N x T numbers: N x T x h x w. Without numbers, of all."""
        text = class_embeddings(vocabulary).expand(len(cost), -1, -1)
        if classes is not None:
            cost, text = at_classes(cost, classes), at_classes(text, classes)
        return self.decoder(self.aggregator(cost, dense, text), maps)

    def _images_at_once(self, num_classes: int) -> int:
        pixels = (self.decoder.scale * self.size // self.tower.stride) ** 2
        return max(1, _MAX_ELEMENTS // (min(num_classes, self.max_classes) * pixels * self.decoder.dims[-1]))


def _resize(images: Tensor, size: int) -> Tensor:
    """Images N x 3 x H x W, whatever their aspect, to squares of float pixels in 0..255."""
    if images.shape[-2:] == (size, size):
        return images.float()
    return F.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True)


def _enlarge(logits: Tensor, size: int) -> Tensor:
    return F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
