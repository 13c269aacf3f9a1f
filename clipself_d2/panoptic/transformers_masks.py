"""Mask2Former and MaskFormer of the `transformers` library as mask generators, opened to any vocabulary by text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.errors import InputError, require
from clipself_d2.panoptic.class_links import link_classes
from clipself_d2.panoptic.masks import MaskPredictions
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary
from clipself_d2.vocabulary.synonyms import embed_synonyms

ARCHITECTURES = ("mask2former", "maskformer")

# ImageNet's statistics, RGB in 0..1, with which all published segmenters were trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DIVISIBILITY = 32  # of the input's sides
_STRIDE = 4  # of the masks


class TransformersMasks(nn.Module):
    """The masks of a published closed-set segmenter, with its class scores carried over to any vocabulary.

    `link_classes` shares the probabilities of its L classes among a vocabulary's K classes; void stays void. With the
    segmenter's own classes as the vocabulary, the scores are the segmenter's own.

    Images are prepared as for the published numbers: the short side is `short_side` pixels unless the long side would
    exceed `long_side`; bilinear; ImageNet's mean and standard deviation; zero padding to multiples of 32. Weights are
    read from safetensors only.

    Args:
        name: a folder with config.json and model.safetensors, or a name on the Hugging Face hub that is in its local
            cache, such as "facebook/mask2former-swin-large-coco-panoptic".
        text: a `TextClassifier` of the CLIP that embeds the vocabularies.
        classes: the synonyms of each of its L classes, such as `label_set("coco_panoptic")`; None for the names in its
            config.json, synonyms separated by commas.
        temperature: factor of the cosines in `link_classes`.
        short_side: pixels.
        long_side: pixels.
        download: fetch what is not in the local cache from the hub.

    Raises:
        InputError: transformers is not installed; the model is missing, is not a Mask2Former or MaskFormer, or has no
            safetensors; a number of classes other than L; a wrong size.
    """

    embeddings: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str | Path,
        text: Callable[[ClassNames], Tensor],
        *,
        classes: ClassNames | None = None,
        temperature: float = 100.0,
        short_side: int = 800,
        long_side: int = 1333,
        download: bool = False,
    ) -> None:
        super().__init__()
        if not _STRIDE <= short_side <= long_side:
            raise InputError(f"short_side={short_side}, long_side={long_side}: give at least {_STRIDE}, in this order")
        self.model = _load(str(name), download)
        labels = self.model.config.id2label
        if classes is None:
            classes = [[part.strip() for part in labels[i].split(",")] for i in range(len(labels))]
        elif len(classes) != len(labels):
            raise InputError(f"{name}: has {len(labels)} classes, {len(classes)} are given: name each of them")
        self.classes = check_vocabulary(classes)
        self.temperature = temperature
        self.short_side, self.long_side = short_side, long_side
        self.register_buffer("embeddings", embed_synonyms(text, self.classes).cpu(), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(_STD).view(3, 1, 1) * 255, persistent=False)

    @torch.no_grad()
    def forward(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """Find the masks of images one by one, as a `MaskGenerator`.

        Raises:
            InputError: a vocabulary of another CLIP than `text`.
        """
        whose, fix = "those of the mask generator's classes", "give both the same CLIP's text tower"
        vocabulary.check_embed_dim(self.embeddings.shape[1], whose, fix)
        links = link_classes(self.classes, self.embeddings, vocabulary, self.temperature)
        return [self._segment(x["image"], links) for x in inputs]

    def train(self, mode: bool = True) -> TransformersMasks:
        """Stay in evaluation mode: the segmenter is never trained here."""
        return super().train(False)

    def _segment(self, image: Tensor, links: Tensor) -> MaskPredictions:
        pixels = self._prepare(image)
        height, width = pixels.shape[1:]
        padded = F.pad(pixels, (0, -width % _DIVISIBILITY, 0, -height % _DIVISIBILITY))
        output = self.model(pixel_values=padded[None], pixel_mask=torch.ones_like(padded[None, 0]))
        probabilities = output.class_queries_logits[0].float().softmax(dim=-1)
        scores = torch.cat([probabilities[:, :-1] @ links, probabilities[:, -1:]], dim=1)
        masks = output.masks_queries_logits[0].float()[:, : height // _STRIDE, : width // _STRIDE]
        return MaskPredictions(masks, scores.clamp(min=torch.finfo(scores.dtype).tiny).log())

    def _prepare(self, image: Tensor) -> Tensor:
        """Resize and normalize. The sides are multiples of the masks' stride: the masks end where the image does."""
        sides = image.shape[1:]
        scale = min(self.short_side / min(sides), self.long_side / max(sides))
        height, width = (max(1, round(side * scale / _STRIDE)) * _STRIDE for side in sides)
        pixels = image.to(self.pixel_mean.device, torch.float32)[None]
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
        return (pixels - self.pixel_mean) / self.pixel_std


def load_published(auto: Any, name: str, download: bool) -> Any:
    """Load a mask generator's model or image processor by one of transformers' auto classes; models are frozen.

    Raises:
        InputError: it is missing or of another kind, or the model has no safetensors.
    """
    safe = {"use_safetensors": True} if "Model" in auto.__name__ else {}
    try:
        loaded = auto.from_pretrained(name, local_files_only=not download, **safe)
    except (OSError, ValueError) as error:  # what transformers raises for anything missing or of another kind
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        fix = "give a folder with config.json and model.safetensors"
        if not download and not Path(name).is_dir():
            fix += ", or download=true to fetch it from the Hugging Face hub"
        raise InputError(f"{name}: cannot be loaded as a mask generator ({reason}): {fix}") from error
    return loaded.requires_grad_(False).eval() if isinstance(loaded, nn.Module) else loaded


def _load(name: str, download: bool) -> Any:
    require("transformers", "panoptic", "TransformersMasks")
    from transformers import AutoModelForUniversalSegmentation

    model = load_published(AutoModelForUniversalSegmentation, name, download)
    if model.config.model_type not in ARCHITECTURES:
        raise InputError(f"{name}: is a {model.config.model_type}: use one of {', '.join(ARCHITECTURES)}")
    return model
