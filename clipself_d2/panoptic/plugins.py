"""Plug-ins for ODISE and FC-CLIP: their masks, with CLIP's scores pooled from a CLIPSelf tower's dense map.

ODISE gives every mask a class token that attends to the mask's patches. A CLIPSelf tower is not trained for that: its
last block is read without attention, and on the token path its weights do worse than plain CLIP's
(github.com/wusize/CLIPSelf/issues/26). The plug-in therefore replaces the path, not only the weights. FC-CLIP pools
dense maps, but supports convolutional CLIPs only. docs/panoptic.md has the lines that a user adds to either project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.clip import ImageTower, TextTower
from clipself_d2.clip.frozen import FrozenModules
from clipself_d2.errors import InputError
from clipself_d2.panoptic.mask_embedder import MaskEmbedder
from clipself_d2.regions import fuse_scores
from clipself_d2.vocabulary import TextClassifier, Vocabulary, label_set, seen_classes
from clipself_d2.vocabulary.synonyms import embed_synonyms

Classes = Sequence[Sequence[str]]

_TINY = torch.finfo(torch.float32).tiny


class MaskClassifier(FrozenModules):
    """What both plug-ins share: images and mask logits -> class probabilities.

    Both towers move with the module; neither is part of the state dict.

    Args:
        tower: a CLIP image tower, frozen.
        text_tower: the text tower of the same CLIP; its logit scale, clamped at 100, is the temperature.
        size: see `MaskEmbedder`.
        alpha: CLIP's weight for the classes that the mask generator was trained on.
        beta: CLIP's weight for the others.
        templates: see `vocabulary.TextClassifier`; a class scores as its best synonym.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.
    """

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        alpha: float,
        beta: float,
        *,
        templates: str | Sequence[str],
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        super().__init__()
        if text_tower.embed_dim != tower.embed_dim:
            raise InputError(
                f"text_tower: its embeddings have length {text_tower.embed_dim}, the image tower's {tower.embed_dim}: "
                "use the towers of one CLIP"
            )
        self.embedder = MaskEmbedder(tower, size, dense_mode, mask_resize)
        self.hold_frozen("text_tower", text_tower)
        self.text = TextClassifier(text_tower, templates, synonyms="max")
        self.alpha = alpha
        self.beta = beta
        self._vocabularies: dict[tuple[tuple[str, ...], ...], Vocabulary] = {}

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of CLIP's temperature factor."""
        return self.text.tower.logit_scale

    def fuse(self, log_scores: Tensor, images: Tensor, masks: Tensor, classes: Classes, seen: Tensor) -> Tensor:
        """Fuse a generator's scores with CLIP's. A mask that covers no cell of CLIP's map keeps the generator's.

        Args:
            log_scores: B x Q x (K + 1) log probabilities, void last.
            images: B x 3 x H x W RGB in 0..255, padded or not.
            masks: B x Q x h x w logits of the same extent.
            classes: K lists of synonyms.
            seen: K bool.

        Returns:
            B x Q x (K + 1) probabilities, fp32.

        Raises:
            InputError: classes, scores and masks that do not fit each other.
        """
        if log_scores.shape[-1] != len(classes) + 1 or log_scores.shape[:2] != masks.shape[:2]:
            raise InputError(
                f"scores are {tuple(log_scores.shape)} for masks {tuple(masks.shape)} and {len(classes)} classes: the "
                "test labels of this head and of the mask generator differ"
            )
        log_scores = log_scores.float()
        vocabulary = self._vocabulary(classes)
        embedded = self.embedder(list(images), list(masks))
        features = torch.stack([features for features, _ in embedded]).to(log_scores.device)
        valid = torch.stack([valid for _, valid in embedded]).to(log_scores.device)
        temperature = self.logit_scale.exp().clamp(max=100).to(features)
        clip_logprobs = vocabulary.log_probabilities(features, temperature)
        fused = fuse_scores(log_scores, clip_logprobs, seen, self.alpha, self.beta, "odise")
        return fused.where(valid[..., None], log_scores.exp())

    def _vocabulary(self, classes: Classes) -> Vocabulary:
        """Embed the classes, once. Names may repeat: classes are numbered to tell them apart."""
        key = tuple(tuple(dict.fromkeys(synonyms)) for synonyms in classes)
        if key not in self._vocabularies:
            distinct = [(f"{number} {name}", *others) for number, (name, *others) in enumerate(key)]
            self._vocabularies[key] = Vocabulary(distinct, embed_synonyms(self.text, key))
        return self._vocabularies[key]


class ODISEMaskClassifier(MaskClassifier):
    """A drop-in for the `clip_head` of an ODISE config: CLIP's scores from the dense path, ODISE's fusion.

    Args:
        tower: see `MaskClassifier`.
        text_tower: see `MaskClassifier`.
        size: see `MaskClassifier`.
        alpha: ODISE's caption model .35, its label model .3; 1 for CLIP only, 0 for the prediction only.
        beta: .65 and .7; likewise.
        templates: ODISE's is "photo".
        train_labels: the classes that ODISE was trained on, each a list of synonyms. None: COCO panoptic's.
        size_divisibility: ODISE pads images to multiples of it to predict masks, but not those that it passes to this
            head.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.

    Attributes:
        test_labels: the classes to look for; set by ODISE's wrapper of a test set.
        with_bg: always False: void is the mask generator's.
    """

    with_bg = False

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        alpha: float = 0.35,
        beta: float = 0.65,
        *,
        templates: str | Sequence[str] = "photo",
        train_labels: Classes | None = None,
        size_divisibility: int = 64,
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        super().__init__(
            tower, text_tower, size, alpha, beta, templates=templates, dense_mode=dense_mode, mask_resize=mask_resize
        )
        self.train_labels = label_set("coco_panoptic") if train_labels is None else train_labels
        self.size_divisibility = size_divisibility
        self.test_labels: Classes | None = None

    @torch.no_grad()
    def forward(self, outputs: dict[str, Any], targets: None = None) -> dict[str, Any]:
        """ODISE's call in evaluation.

        Args:
            outputs: `images` (B x 3 x H x W RGB in 0..1, padded to the largest), `pred_masks` (B x Q x h x w
                logits), `pred_open_logits` (B x Q x K, taken out of it) and maybe `labels`.
            targets: None.

        Returns:
            `pred_open_logits`: B x Q x K, whose softmax is the fused probability without void; `labels` if they
            were there.

        Raises:
            InputError: without test labels, or with others than the scores are about.
        """
        if self.test_labels is None:
            raise InputError("ODISEMaskClassifier has no test_labels: evaluate through ODISE's OpenPanopticInference")
        logits: Tensor = outputs.pop("pred_open_logits")
        images = outputs["images"] * 255
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.size_divisibility, 0, -height % self.size_divisibility))
        # ODISE multiplies by the foreground's probability later: here nothing is void.
        log_scores = F.pad(logits.float().log_softmax(-1), (0, 1), value=-torch.inf)
        seen = torch.tensor(seen_classes(self.train_labels, self.test_labels), device=logits.device)
        fused = self.fuse(log_scores, images, outputs["pred_masks"], self.test_labels, seen)
        results: dict[str, Any] = {"pred_open_logits": fused[..., :-1].clamp(min=_TINY).log()}
        return {**results, "labels": self.test_labels} if "labels" in outputs else results

    def open_state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        """Return what ODISE's wrapper of a test set swaps: the test labels."""
        destination = {} if destination is None else destination
        destination[f"{prefix}test_labels"] = self.test_labels
        return destination


class FCCLIPMaskClassifier(MaskClassifier):
    """FC-CLIP's out-of-vocabulary classifier with a CLIP of its own, such as a ViT, for which FC-CLIP has none.

    FC-CLIP keeps its convolutional CLIP for masks and in-vocabulary scores. Once attached, this module replaces the
    scores of FC-CLIP's head by the fused ones and sets FC-CLIP's own ensemble weights to 0, which passes them through
    unchanged. FC-CLIP's code needs no change.

    Args:
        tower: see `MaskClassifier`.
        text_tower: see `MaskClassifier`.
        size: see `MaskClassifier`.
        alpha: FC-CLIP's is .4.
        beta: FC-CLIP's is .8.
        templates: "vild" has 63 of the kind of which FC-CLIP takes 14; they are averaged, as in FC-CLIP.
        dense_mode: see `MaskEmbedder`.
        mask_resize: see `MaskEmbedder`.
    """

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        size: int,
        alpha: float = 0.4,
        beta: float = 0.8,
        *,
        templates: str | Sequence[str] = "vild",
        dense_mode: str = "no_attn",
        mask_resize: str = "bilinear",
    ) -> None:
        super().__init__(
            tower, text_tower, size, alpha, beta, templates=templates, dense_mode=dense_mode, mask_resize=mask_resize
        )

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor, logits: Tensor, classes: Classes, seen: Tensor) -> Tensor:
        """Fuse the scores.

        Args:
            images: B x 3 x H x W RGB in 0..255, padded as in FC-CLIP.
            masks: B x Q x h x w, its `pred_masks`.
            logits: B x Q x (K + 1), its in-vocabulary `pred_logits`, void last.
            classes: K lists of synonyms.
            seen: K, its `category_overlapping_mask`.

        Returns:
            B x Q x (K + 1) log probabilities, void last.

        Raises:
            InputError: see `MaskClassifier.fuse`.
        """
        fused = self.fuse(logits.float().log_softmax(-1), images, masks, classes, seen.bool())
        return fused.clamp(min=_TINY).log()

    def attach(self, model: nn.Module) -> nn.Module:
        """Make an FC-CLIP model classify with this module in evaluation; training stays as it is.

        Args:
            model: an `FCCLIP`, with `backbone`, `sem_seg_head`, `pixel_mean`, `pixel_std`, `test_metadata`,
                `category_overlapping_mask` and the two weights `geometric_ensemble_alpha` and `.._beta`.

        Returns:
            The model.

        Raises:
            InputError: another kind of model.
        """
        needed = ("backbone", "sem_seg_head", "category_overlapping_mask", "geometric_ensemble_alpha", "test_metadata")
        if lacks := [name for name in needed if not hasattr(model, name)]:
            raise InputError(f"{type(model).__name__} has no {lacks[0]}: attach to an FC-CLIP model")
        model.geometric_ensemble_alpha = model.geometric_ensemble_beta = 0.0  # type: ignore[assignment]
        seen_images: list[Tensor] = []

        def keep_images(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not model.training:
                seen_images[:] = [arguments[0] * model.pixel_std + model.pixel_mean]

        def replace_scores(_: nn.Module, __: Any, outputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if model.training:
                return None
            overlap = model.category_overlapping_mask
            arguments = (seen_images.pop(), outputs["pred_masks"], outputs["pred_logits"])
            scores = self(*arguments, _metadata_classes(model.test_metadata), overlap)
            return {**outputs, "pred_logits": scores}

        model.backbone.register_forward_pre_hook(keep_images)  # type: ignore[union-attr]
        model.sem_seg_head.register_forward_hook(replace_scores)  # type: ignore[union-attr]
        self.to(model.pixel_mean.device)  # type: ignore[arg-type]
        return model


def _metadata_classes(metadata: Any) -> list[list[str]]:
    """FC-CLIP's classes, whose synonyms are joined by commas: things and stuff, or things alone."""
    names = getattr(metadata, "stuff_classes", None) or metadata.thing_classes
    return [[synonym.strip() for synonym in name.split(",")] for name in names]
