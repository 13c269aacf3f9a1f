"""Region-text supervision, the baseline that CLIPSelf is compared with (paper, Table 7; RegionCLIP's idea)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.data.labeled_regions import load_category_names
from clipself_d2.distillation.student import Student
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import TextClassifier, load_text_embeddings


class RegionText(Student):
    """Trains a tower's dense map on named regions: each should match the embedding of its noun, and of no other.

    Each region's cosines with `num_sampled` nouns, times the temperature, go through binary cross-entropy: summed over
    the nouns, averaged over the regions of the batch. The nouns are those of the rank's batch and others that are drawn
    per batch with equal probability (released code).

    The nouns are embedded when the first batch is trained on; an evaluation needs neither them nor their file.

    Args:
        tower: see `Student`.
        nouns: the K class names that samples number, or the json whose categories they are.
        text: embeds the names as K x C unit vectors; or a file for `load_text_embeddings`.
        student_size: see `Student`.
        temperature: factor of the cosines; None for that of `text`'s tower, the exponential of its logit scale.
        num_sampled: classes that a batch is judged on (released code: 100); at least all that occur in it.
        options: the other arguments of `Student`.

    Raises:
        InputError: see `Student`; a file of embeddings without a temperature, fewer than 1 sampled classes.
    """

    noun_embeddings: Tensor | None

    def __init__(
        self,
        tower: ImageTower,
        nouns: Sequence[str] | str | Path,
        text: TextClassifier | str | Path,
        student_size: int,
        *,
        temperature: float | None = None,
        num_sampled: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(tower, student_size, **options)
        if num_sampled < 1:
            raise InputError(f"model.num_sampled={num_sampled}: judge at least 1 class")
        if temperature is None and isinstance(text, (str, Path)):
            raise InputError("model.temperature: give a number, as a file of text embeddings has none")
        self.nouns = nouns
        self.text = text
        self.temperature = temperature
        self.num_sampled = num_sampled
        self.register_buffer("noun_embeddings", None, persistent=False)

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Binary cross-entropy with the sampled nouns.

        Args:
            inputs: samples with `image` (3 x H x W uint8), `regions` (`Boxes` in pixels of `image`) and `classes` (R
                long, 0..K-1); an image without regions is legal.

        Returns:
            `{"loss_region_text": scalar}`.
        """
        inputs = [x for x in inputs if len(x["regions"])] or inputs[:1]
        nouns, temperature = self.embed_nouns()
        regions = self.embed_regions([x["image"] for x in inputs], [x["regions"].tensor for x in inputs])
        classes, columns = sample_classes(torch.cat([x["classes"] for x in inputs]), len(nouns), self.num_sampled)
        classes, columns = (x.to(self.device, non_blocking=True) for x in (classes, columns))
        with torch.autocast(self.device.type, enabled=False):  # bf16 would round the logits, up to 100, by a quarter
            logits = temperature * regions @ nouns[classes].T
        targets = F.one_hot(columns, len(classes)).to(logits)
        if len(regions) and has_event_storage():
            right = (logits.argmax(dim=1) == columns).float().mean()
            get_event_storage().put_scalars(noun_accuracy=right, regions_per_image=len(regions) / len(inputs))
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return {"loss_region_text": loss / max(len(regions), 1)}

    def embed_nouns(self) -> tuple[Tensor, float]:
        """The nouns' K x C unit vectors, and the temperature.

        Raises:
            InputError: if the names, or a file of their embeddings, cannot be read or do not fit.
        """
        text = self.text
        if self.noun_embeddings is None:
            names = self.nouns if not isinstance(self.nouns, (str, Path)) else load_category_names(self.nouns)
            if isinstance(text, (str, Path)):
                rows = load_text_embeddings(text, names, self.tower.embed_dim)
            else:
                rows = text(names)
            if rows.shape[1] != self.tower.embed_dim:
                raise InputError(
                    f"model.text: embeddings of {rows.shape[1]}, the image tower's are of {self.tower.embed_dim}: take "
                    "the text tower of the same CLIP"
                )
            self.noun_embeddings = rows.to(self.device)
        if self.temperature is None:
            assert not isinstance(text, (str, Path))
            self.temperature = text.tower.logit_scale.detach().exp().item()
        return self.noun_embeddings, self.temperature

    def num_loss_items(self, inputs: Sequence[dict[str, Any]]) -> int:
        """Number of regions, over which the loss is a mean; see `engine.Trainer`."""
        return sum(len(x["regions"]) for x in inputs)


def sample_classes(labels: Tensor, num_classes: int, num_sampled: int) -> tuple[Tensor, Tensor]:
    """Draw the classes that a batch is judged on, from torch's CPU generator.

    Args:
        labels: R class numbers, 0..num_classes-1.
        num_classes: K.
        num_sampled: number of classes; more if the labels hold more, fewer if there are fewer.

    Returns:
        The class numbers, those of the labels first, and R positions of the labels among them.
    """
    present, columns = labels.unique(return_inverse=True)
    drawn = torch.randperm(num_classes)
    others = drawn[~torch.isin(drawn, present)][: max(0, num_sampled - len(present))]
    return torch.cat([present, others]), columns
