"""The user's door: name the regions of a photograph with any vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torch import Tensor, nn

from clipself_d2.clip import ImageTower, build_towers
from clipself_d2.errors import InputError
from clipself_d2.regions.embedder import RegionEmbedder
from clipself_d2.vocabulary import TextClassifier

_MAX_ELEMENTS = 2**26  # scores that are made at once


class RegionClassifier(nn.Module):
    """Class probabilities of boxes and masks: softmax of the temperature times the cosine with the classes' texts.

    Attributes:
        vocabulary: the classes, if they were given; columns of the probabilities are in this order.
    """

    text: Tensor

    def __init__(
        self,
        tower: ImageTower,
        text: Tensor,
        temperature: float = 100.0,
        *,
        size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        vocabulary: Sequence[str | Sequence[str]] = (),
    ):
        """Puts a tower and the embeddings of a vocabulary together.

        Args:
            tower: a CLIP image tower.
            text: K x C embeddings of the classes.
            temperature: factor of the cosines (CLIP's own: 100; F-ViT's: 50 to 120).
            size: side of the square input of the dense forward. None: four times the tower's native size.
            dense_mode: see `RegionEmbedder`.
            mask_resize: see `RegionEmbedder`.
            vocabulary: the names behind `text`, kept for the user.

        Raises:
            InputError: if text is not K x C for this tower, or `RegionEmbedder` refuses the rest.
        """
        super().__init__()
        if text.ndim != 2 or text.shape[1] != tower.embed_dim:
            raise InputError(
                f"text embeddings are {tuple(text.shape)}, the tower's have {tower.embed_dim} channels: "
                "use those of the same CLIP"
            )
        self.embedder = RegionEmbedder(
            tower, size or 4 * tower.native_size, dense_mode=dense_mode, mask_resize=mask_resize
        )
        self.register_buffer("text", F.normalize(text.detach().float(), dim=-1).to(tower.pixel_mean.device), False)
        self.temperature = temperature
        self.vocabulary = list(vocabulary)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        vocabulary: Sequence[str | Sequence[str]],
        *,
        pretrained: str | None = None,
        templates: str | Sequence[str] = "vild",
        temperature: float = 100.0,
        size: int | None = None,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
    ) -> RegionClassifier:
        """Builds the classifier from a CLIP and a list of class names.

        Args:
            name: a distilled tower (``tower.safetensors`` or its card ``tower.json``), or a CLIP model's name or config
                as in `clip.build_towers`.
            vocabulary: class names, each a name or a list of synonyms.
            pretrained: the weights of a model given by name: a tag, a path, or ``"random"``.
            templates: prompts, see `clip.TextClassifier`.
            temperature: see the class.
            size: see the class. None: the ``student_size`` of the tower's card, if it has one.
            dense_mode: see the class.
            mask_resize: see the class.

        Returns:
            The classifier, in evaluation mode, on the CPU.

        Raises:
            InputError: if the model, the weights or the card cannot be found or do not fit.
        """
        model, weights, trained_size = (str(name), pretrained, None) if pretrained else _read_card(Path(name))
        image_tower, text_tower = build_towers(model, weights)
        text = TextClassifier(text_tower, templates)(vocabulary)
        return cls(
            image_tower,
            text,
            temperature,
            size=size or trained_size,
            dense_mode=dense_mode,
            mask_resize=mask_resize,
            vocabulary=vocabulary,
        ).eval()

    def classify_boxes(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Classifies boxes.

        Args:
            images: 3 x H x W uint8 RGB, each of its own size; see `data.read_image`.
            boxes: for every image R x 4 ``x0, y0, x1, y1`` in its pixels.

        Returns:
            For every image R x K probabilities.
        """
        return self._classify([{"image": i, "boxes": Boxes(b)} for i, b in zip(images, boxes, strict=True)], "boxes")

    def classify_masks(self, images: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Classifies masks.

        Args:
            images: 3 x H x W uint8 RGB, each of its own size; see `data.read_image`.
            masks: for every image R x H x W bool.

        Returns:
            For every image R x K probabilities.
        """
        return self._classify([{"image": i, "masks": m} for i, m in zip(images, masks, strict=True)], "masks")

    @torch.no_grad()
    def probabilities(self, embeddings: Tensor) -> Tensor:
        """R x C unit embeddings -> R x K probabilities, float32; at most 256 MiB are held beside the result."""
        result = self.text.new_empty(len(embeddings), len(self.text))
        run = max(1, _MAX_ELEMENTS // max(1, len(self.text)))
        with torch.autocast(embeddings.device.type, enabled=False):
            for part, rows in zip(embeddings.split(run), result.split(run), strict=True):
                torch.softmax(self.temperature * part.float() @ self.text.T, dim=-1, out=rows)
        return result

    def _classify(self, inputs: list[dict[str, Any]], regions: str) -> list[Tensor]:
        """One forward and one product for the regions of all images."""
        if not inputs:
            return []
        embeddings = [output[regions] for output in self.embedder(inputs)]
        return list(self.probabilities(torch.cat(embeddings)).split([len(e) for e in embeddings]))


def _read_card(path: Path) -> tuple[str, str, int | None]:
    """The model's name, the path of its weights and the size it was trained at, from an exported tower or its card."""
    card, weights = path.with_suffix(".json"), path.with_suffix(".safetensors")
    if path.suffix not in (".json", ".safetensors"):
        raise InputError(f"{path}: give a tower.safetensors, or name the weights of this model with pretrained=...")
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        model = content["model"]
    except OSError as error:
        raise InputError(f"{card}: the card of the tower cannot be read ({error.strerror}): check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{card}: is not the card of a tower, which has 'model': check the path") from error
    if not weights.is_file():
        raise InputError(f"{weights}: the weights of the card are missing: put them beside it")
    return model, str(weights), content.get("student_size")
