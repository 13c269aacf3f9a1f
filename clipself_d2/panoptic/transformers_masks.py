"""Mask2Former and MaskFormer of the `transformers` library as mask generators, their closed classes opened by text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipself_d2.errors import InputError
from clipself_d2.panoptic.masks import MaskPredictions
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary, max_over_synonyms, synonym_classes
from clipself_d2.vocabulary.synonyms import embed_synonyms

ARCHITECTURES = ("mask2former", "maskformer")

# Of ImageNet, with which all published ones were trained; RGB, 0..1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DIVISIBILITY = 32  # of the input's sides
_STRIDE = 4  # of the masks


class TransformersMasks(nn.Module):
    """The masks of a published closed-set segmenter, with its class scores carried over to any vocabulary.

    Its L classes give a vocabulary's K classes their probability by `link_classes`; void stays void. With the
    segmenter's own classes as the vocabulary the scores are the segmenter's own.

    Images are prepared as for the published numbers: the short side ``short_side`` pixels unless the long one would
    exceed ``long_side``, bilinear, ImageNet's mean and standard deviation, padded with zeros to multiples of 32.

    Weights are read from safetensors only. Nothing is fetched from the network unless ``download`` is true.
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
        """Reads the segmenter.

        Args:
            name: a folder with config.json and model.safetensors, or a name on the Hugging Face hub that is in its
                local cache, such as "facebook/mask2former-swin-large-coco-panoptic".
            text: a `clip.TextClassifier`, of the CLIP that the vocabularies are embedded by.
            classes: the synonyms of each of its L classes, such as `data.label_sets.label_set("coco_panoptic")`; None
                for the names in its config.json, synonyms separated by commas.
            temperature: factor of the cosines in `link_classes`.
            short_side: pixels.
            long_side: pixels.
            download: fetch what is not in the local cache from the hub.

        Raises:
            InputError: if transformers is not installed; the model is not there, is no Mask2Former or MaskFormer or has
                no safetensors; there are not L classes; a size is not positive.
        """
        super().__init__()
        if not _STRIDE <= short_side <= long_side:
            raise InputError(f"short_side={short_side}, long_side={long_side}: give at least {_STRIDE}, in this order")
        self.name = str(name)
        self.model = _load(self.name, download).requires_grad_(False).eval()
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
        """A `MaskGenerator`'s call, image by image.

        Raises:
            InputError: a vocabulary of another CLIP than `text`.
        """
        whose, mend = "those of the mask generator's classes", "give both the same CLIP's text tower"
        vocabulary.check_embed_dim(self.embeddings.shape[1], whose, mend)
        links = link_classes(self.classes, self.embeddings, vocabulary, self.temperature)
        return [self._segment(x["image"], links) for x in inputs]

    def train(self, mode: bool = True) -> TransformersMasks:
        """Stays in evaluation mode: it is never trained here."""
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
        """Resized, sides multiples of the masks' stride so that the masks end where the image does, and normalised."""
        sides = image.shape[1:]
        scale = min(self.short_side / min(sides), self.long_side / max(sides))
        height, width = (max(1, round(side * scale / _STRIDE)) * _STRIDE for side in sides)
        pixels = image.to(self.pixel_mean.device, torch.float32)[None]
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
        return (pixels - self.pixel_mean) / self.pixel_std


def link_classes(classes: ClassNames, embeddings: Tensor, vocabulary: Vocabulary, temperature: float) -> Tensor:
    """How the probability of closed classes is shared among those of a vocabulary.

    ``link[l, k] = softmax_k(temperature * c[l, k])``, where ``c[l, k]`` is

    - 1 if class l and class k have a name in common, letter for letter;
    - else their texts' cosine (the best of their synonyms), if l has no namesake in the vocabulary, or k none among the
      closed classes;
    - else minus infinity: two classes that both have a namesake have nothing to share.

    So a class keeps its probability where the vocabulary has it, but for what it lends to classes that the segmenter
    does not know, the more the closer their texts are.

    Args:
        classes: L lists of synonyms.
        embeddings: a row a synonym, class by class, C unit vectors.
        vocabulary: K classes.
        temperature: factor of the cosines.

    Returns:
        L x K, rows sum to 1.
    """
    closed = check_vocabulary(classes)
    # Cosines are taken text by text, then the best of a class of theirs with a class of ours.
    cosines = vocabulary.cosines(embeddings)[:, : vocabulary.num_classes]
    cosines = max_over_synonyms(cosines.T, synonym_classes(closed)).T
    same = [[not set(ours).isdisjoint(theirs) for theirs in vocabulary.classes] for ours in closed]
    namesakes = torch.tensor(same, device=cosines.device)
    strangers = namesakes.any(dim=1, keepdim=True) & namesakes.any(dim=0) & ~namesakes
    alike = cosines.masked_fill(namesakes, 1.0).masked_fill(strangers, float("-inf"))
    return (temperature * alike).softmax(dim=-1)


def _load(name: str, download: bool) -> Any:
    try:
        from transformers import AutoModelForUniversalSegmentation
    except ImportError as error:
        raise InputError(
            "TransformersMasks needs the transformers library: pip install 'clipself_d2[panoptic]'"
        ) from error
    try:
        model = AutoModelForUniversalSegmentation.from_pretrained(
            name, local_files_only=not download, use_safetensors=True
        )
    except (OSError, ValueError) as error:  # what transformers raises for anything missing or of another kind
        mend = "give a folder with config.json and model.safetensors" + (
            "" if download or Path(name).is_dir() else ", or download=true to fetch it from the Hugging Face hub"
        )
        raise InputError(f"{name}: cannot be loaded as a mask generator ({_first_line(error)}): {mend}") from error
    if model.config.model_type not in ARCHITECTURES:
        raise InputError(f"{name}: is a {model.config.model_type}: use one of {', '.join(ARCHITECTURES)}")
    return model


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
