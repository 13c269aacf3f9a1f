"""The entry point for users: name the regions of an image with any vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from clipself_d2 import clip
from clipself_d2.clip.checkpoint import read_card
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError
from clipself_d2.files import REPOSITORIES
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.vocabulary import ClassNames, TextClassifier, Vocabulary

_MAX_ELEMENTS = 2**26  # of the probabilities that are computed at once


class RegionClassifier(nn.Module):
    """Class probabilities of boxes and masks: softmax of the temperature times the cosines with the classes' texts.

    Args:
        tower: a CLIP image tower.
        vocabulary: the K classes.
        temperature: factor of the cosines (CLIP's own: 100; F-ViT's: 50 to 120).
        size: side in pixels of the square input of the dense forward. None: four times the tower's native size.
        dense_mode: see `RegionEmbedder`.
        mask_resize: see `RegionEmbedder`.

    Raises:
        InputError: a vocabulary of another tower; see `RegionEmbedder` too.
    """

    def __init__(
        self,
        tower: ImageTower,
        vocabulary: Vocabulary,
        temperature: float = 100.0,
        *,
        size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
    ) -> None:
        super().__init__()
        vocabulary.check_embed_dim(tower.embed_dim)
        size = size or 4 * tower.native_size
        self.embedder = RegionEmbedder(tower, size, dense_mode=dense_mode, mask_resize=mask_resize)
        self.vocabulary = vocabulary.to(tower.pixel_mean.device)
        self.temperature = temperature

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        classes: ClassNames,
        *,
        pretrained: str | None = None,
        templates: str | Sequence[str] = "vild",
        temperature: float = 100.0,
        size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
    ) -> RegionClassifier:
        """Build the classifier from a CLIP and class names, in evaluation mode, on the CPU.

        Args:
            name: a distilled tower (``tower.safetensors`` or its card ``tower.json``), a repository
                (``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``), or the name or config of a CLIP model, see
                `clip.build_towers`.
            classes: class names, each a name or a list of synonyms.
            pretrained: the weights of a model given by name: a tag or a path.
            templates: prompts, see `TextClassifier`.
            temperature: see the class.
            size: see the class. None: the ``student_size`` of the tower's card, if it has one.
            dense_mode: see the class.
            mask_resize: see the class.

        Raises:
            InputError: the model, weights or card cannot be found or do not fit.
        """
        own = pretrained is None and not str(name).startswith(REPOSITORIES)
        model, weights, trained_size = _read_card(Path(name)) if own else (str(name), pretrained, None)
        image_tower, text_tower = clip.build_towers(model, weights)
        vocabulary = Vocabulary.from_classes(classes, TextClassifier(text_tower, templates), background=None)
        return cls(
            image_tower,
            vocabulary,
            temperature,
            size=size or trained_size,
            dense_mode=dense_mode,
            mask_resize=mask_resize,
        ).eval()

    @torch.no_grad()
    def classify_boxes(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Classify boxes.

        Args:
            images: 3 x H x W uint8 RGB, each of its own size; see `data.read_image`.
            boxes: per image R x 4 ``x0, y0, x1, y1`` in its pixels.

        Returns:
            Per image R x K probabilities; one more column, the last, if the vocabulary has a background.
        """
        nothing = [torch.zeros(0, *image.shape[1:]) for image in images]
        return self._name(self.embedder.embed_regions(images, boxes, nothing)[0]) if images else []

    @torch.no_grad()
    def classify_masks(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Classify masks, R x H x W bool per image; otherwise like `classify_boxes`."""
        nothing = [torch.zeros(0, 4)] * len(images)
        return self._name(self.embedder.embed_regions(images, nothing, masks)[1]) if images else []

    @torch.no_grad()
    def probabilities(self, embeddings: Tensor) -> Tensor:
        """R x C unit embeddings -> R x K probabilities, fp32; at most 256 MiB are held beside the result."""
        run = max(1, _MAX_ELEMENTS // len(self.vocabulary))
        parts = embeddings.split(run)
        return torch.cat([self.vocabulary.log_probabilities(part, self.temperature).exp_() for part in parts])

    def _name(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        return list(self.probabilities(torch.cat(list(embeddings))).split([len(e) for e in embeddings]))


def _read_card(path: Path) -> tuple[str, str, int | None]:
    """The model's name, the path of its weights and the size of its training, from an exported tower or its card."""
    card, weights = path.with_suffix(".json"), path.with_suffix(".safetensors")
    if path.suffix not in (".json", ".safetensors"):
        raise InputError(f"{path}: give a tower.safetensors, or name the weights of this model with pretrained=...")
    content = read_card(card)
    if not weights.is_file():
        raise InputError(f"{weights}: the weights of the card are missing: put them beside it")
    return content["model"], str(weights), content.get("student_size")
