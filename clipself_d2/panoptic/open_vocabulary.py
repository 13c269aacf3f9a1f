"""Open-vocabulary panoptic segmentation: a mask generator's scores fused with those of CLIP's dense map (table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from clipself_d2.clip import ImageTower
from clipself_d2.data.image import result_size
from clipself_d2.errors import InputError
from clipself_d2.panoptic.inference import panoptic_segments, semantic_map, top_instances
from clipself_d2.panoptic.mask_embedder import MaskEmbedder
from clipself_d2.panoptic.masks import MaskGenerator, MaskPredictions
from clipself_d2.regions import fuse_scores
from clipself_d2.vocabulary import Vocabulary

TASKS = ("panoptic_seg", "instances", "sem_seg")
"""The fields of Detectron2's results."""


class OpenVocabularyPanoptic(nn.Module):
    """Masks of any generator, classified by the generator and by CLIP; the vocabulary is an argument of the call.

    `alpha = beta = 1` uses CLIP's scores only (void stays the generator's), `alpha = beta = 0` the generator's only.

    Args:
        generator: finds the masks; if it is a module, its weights are part of the state dict.
        tower: a CLIP image tower; frozen, not part of the state dict.
        vocabulary: the K classes of a call without a vocabulary.
        isthing: K bool: whether each mask of the class is a segment of its own.
        size: see `MaskEmbedder`.
        fusion: a variant of `regions.fuse_scores`; "odise" and "fcclip" leave void to the generator.
        alpha: CLIP's weight for base classes: ODISE .35 (caption) and .3 (label), FC-CLIP .4.
        beta: CLIP's weight for novel classes: .65, .7 and .8.
        temperature: factor of the cosines, CLIP's own logit scale (100 in all of OpenAI's models).
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.
        skip_padding: see `MaskEmbedder`.
        object_threshold: see `panoptic_segments`.
        overlap_threshold: see `panoptic_segments`.
        topk: see `top_instances`.
        tasks: which of `TASKS` to compute.
        labels_only: of "sem_seg", give the best class of each pixel instead of the scores of all classes, which take
            4 K H W bytes.

    Raises:
        InputError: a vocabulary of another tower, `isthing` of another length, a temperature that is not positive, an
            unknown task; see also `MaskEmbedder`.
    """

    isthing: Tensor

    def __init__(
        self,
        generator: MaskGenerator,
        tower: ImageTower,
        vocabulary: Vocabulary,
        isthing: Sequence[bool] | Tensor,
        size: int,
        *,
        fusion: str = "fcclip",
        alpha: float = 0.4,
        beta: float = 0.8,
        temperature: float = 100.0,
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
        skip_padding: bool = True,
        object_threshold: float = 0.0,
        overlap_threshold: float = 0.8,
        topk: int = 100,
        tasks: Sequence[str] = TASKS,
        labels_only: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"model.temperature={temperature}: must be above 0")
        if unknown := [task for task in tasks if task not in TASKS]:
            raise InputError(f"model.tasks: {unknown[0]!r} is not known: use {', '.join(TASKS)}")
        self.embedder = MaskEmbedder(tower, size, dense_mode, mask_resize, skip_padding)
        self.generator = generator
        self.fusion = fusion
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.object_threshold = object_threshold
        self.overlap_threshold = overlap_threshold
        self.topk = topk
        self.tasks = tuple(tasks)
        self.labels_only = labels_only
        self.vocabulary = vocabulary
        self.register_buffer("isthing", self._check(vocabulary, isthing), persistent=False)

    @torch.no_grad()
    def forward(
        self,
        inputs: list[dict[str, Any]],
        vocabulary: Vocabulary | None = None,
        isthing: Sequence[bool] | Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """Segment a batch of images.

        Args:
            inputs: samples with `image` (3 x H x W uint8 RGB), and what the generator needs. `height` and `width` are
                the size of the results; default is the image's.
            vocabulary: the classes to look for; None for the model's own.
            isthing: which classes of that vocabulary are things. None: all.

        Returns:
            Per image those of `panoptic_seg` (see `panoptic_segments`), `instances` (`top_instances`) and `sem_seg`
            (`semantic_map`) that are among the tasks.

        Raises:
            InputError: a vocabulary of another tower, predictions that do not fit the image or the vocabulary.
        """
        if vocabulary is None:
            vocabulary, things = self.vocabulary, self.isthing
        else:
            things = self._check(vocabulary, [True] * len(vocabulary) if isthing is None else isthing)
            vocabulary, things = vocabulary.to(self.embedder.device), things.to(self.embedder.device)
        predictions = self.generator(inputs, vocabulary)
        for x, prediction in zip(inputs, predictions, strict=True):
            height, width = x["image"].shape[-2:]
            prediction.check(height, width, len(vocabulary), f"masks of {x.get('file_name', 'an image')}")
        predictions = [p.to(self.embedder.device) for p in predictions]
        embedded = self.embedder([x["image"] for x in inputs], [p.masks for p in predictions])
        return [
            self._segment(prediction, self._fuse(prediction, features, valid, vocabulary), things, result_size(x))
            for x, prediction, (features, valid) in zip(inputs, predictions, embedded, strict=True)
        ]

    @torch.no_grad()
    def propose(self, inputs: list[dict[str, Any]]) -> list[Instances]:
        """Return the boxes of the generator's masks as region proposals.

        Returns:
            `proposal_boxes` and `objectness_logits` per image, best first. The probability of an object is that of not
            being void, times the mask's predicted IoU.
        """
        results = []
        for x, found in zip(inputs, self.generator(inputs, self.vocabulary), strict=True):
            prediction = found.to("cpu")
            scores = -prediction.log_scores[:, -1].float().expm1()
            if prediction.mask_iou is not None:
                scores = scores * prediction.mask_iou.float()
            scores, order = scores.sort(descending=True)
            masks = prediction.masks[order] > 0
            boxes = BitMasks(masks).get_bounding_boxes()
            proposals = Instances(masks.shape[1:], proposal_boxes=boxes, objectness_logits=scores.logit(eps=1e-6))
            results.append(detector_postprocess(proposals, *result_size(x)))
        return results

    def _fuse(self, prediction: MaskPredictions, features: Tensor, valid: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Q x (K + 1) probabilities, times the predicted IoU of the masks."""
        predicted = prediction.log_scores.float()
        clip = vocabulary.log_probabilities(features, self.temperature)
        fused = fuse_scores(predicted, clip, vocabulary.is_base, self.alpha, self.beta, self.fusion)
        # CLIP has no scores for a mask that covers no cell of its map (FC-CLIP's ENSEMBLE_ON_VALID_MASK).
        fused = fused.where(valid[:, None], predicted.exp())
        return fused if prediction.mask_iou is None else fused * prediction.mask_iou.float()[:, None]

    def _segment(
        self, prediction: MaskPredictions, scores: Tensor, isthing: Tensor, size: tuple[int, int]
    ) -> dict[str, Any]:
        masks = prediction.masks
        results: dict[str, Any] = {}
        if "panoptic_seg" in self.tasks:
            thresholds = (self.object_threshold, self.overlap_threshold)
            results["panoptic_seg"] = panoptic_segments(scores, masks, isthing, size, *thresholds)
        if "instances" in self.tasks:
            results["instances"] = top_instances(scores, masks, isthing, size, self.topk)
        if "sem_seg" in self.tasks:
            results |= semantic_map(scores, masks, size, self.labels_only)
        return results

    def _check(self, vocabulary: Vocabulary, isthing: Sequence[bool] | Tensor) -> Tensor:
        vocabulary.check_embed_dim(self.embedder.embed_dim)
        things = torch.as_tensor(isthing, dtype=torch.bool)
        if things.shape != (len(vocabulary),):
            raise InputError(f"isthing has {len(things)} values for {len(vocabulary)} classes: give one for each class")
        return things
