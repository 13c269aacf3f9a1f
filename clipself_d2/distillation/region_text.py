"""Region-text supervision, the baseline that CLIPSelf is compared with (paper, Table 7; RegionCLIP's idea)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.data.labeled_regions import load_category_names
from clipself_d2.distillation.student import Student
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import TextClassifier, load_text_embeddings


@META_ARCH_REGISTRY.register()
class RegionText(Student):
    """Trains a tower's dense map on named regions: each should be like the embedding of its noun, and of no other.

    Each region's cosines with `num_sampled` nouns, times the temperature, are judged by binary cross-entropy: summed
    over the nouns, averaged over the regions of the batch. The nouns are those of the rank's batch, and others
    drawn anew for each batch, all with the same chance (released code).

    The nouns are embedded when the first batch is trained on, so that an evaluation needs neither them nor their file.

    Args:
        tower: see `Student`, as for all that are not explained here.
        nouns: the K class names that samples number, or the json whose categories they are.
        text: turns the names into K x C unit vectors; or a file for `load_text_embeddings`.
        student_size: side of the square that whole images are letterboxed into, in pixels; a multiple of the stride.
        crop_size: side of the crops of evaluation, pixels; None for the tower's native size.
        trainable_blocks: the last blocks that train; None for all blocks.
        alpha: weight of the trained tower in what is exported and evaluated, 0..1.
        temperature: factor on the cosines; None for that of `text`'s tower, the exponential of its logit scale.
        num_sampled: classes that a batch is judged on (released code: 100); all that occur in it in any case.
        multiscale: student sizes of which each training batch is resized to a random one.
        dense_mode: dense mode of the student.
        mask_resize: of evaluation, see `regions.resize_masks`.
        activation_checkpointing: recompute the student's blocks in the backward pass to save memory.
        skip_padding: whether the student's forward reads the letterbox's padding, see `Student`.

    Raises:
        InputError: what `Student` raises; a file of embeddings without a temperature, fewer than 1 sampled classes.
    """

    noun_embeddings: Tensor | None

    def __init__(
        self,
        tower: ImageTower,
        nouns: Sequence[str] | str | Path,
        text: TextClassifier | str | Path,
        student_size: int,
        crop_size: int | None = None,
        trainable_blocks: int | None = None,
        alpha: float = 1.0,
        temperature: float | None = None,
        num_sampled: int = 100,
        multiscale: Sequence[int] = (),
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        activation_checkpointing: bool = False,
        skip_padding: bool = True,
    ) -> None:
        super().__init__(
            tower, student_size, crop_size, trainable_blocks, alpha, multiscale, dense_mode, mask_resize,
            activation_checkpointing, skip_padding,
        )  # fmt: skip
        if num_sampled < 1:
            raise InputError(f"model.num_sampled={num_sampled}: judge at least 1 class")
        if temperature is None and isinstance(text, (str, Path)):
            raise InputError("model.temperature: give a number, as a file of text embeddings tells none")
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
        images = [x["image"].to(self.device, non_blocking=True) for x in inputs]
        regions = self.embed_regions(images, [x["regions"].tensor for x in inputs])
        classes, columns = sample_classes(torch.cat([x["classes"] for x in inputs]), len(nouns), self.num_sampled)
        columns = columns.to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # bf16 would round the logits, up to 100, by a quarter
            logits = temperature * regions @ nouns[classes.to(self.device)].T
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
    """Draws the classes that a batch is judged on, from torch's generator of the CPU.

    Args:
        labels: R class numbers, 0..num_classes-1.
        num_classes: K.
        num_sampled: classes wanted; more where the labels hold more, fewer where there are not as many.

    Returns:
        The class numbers, those of the labels first, and R columns: where the labels stand among them.
    """
    present, columns = labels.unique(return_inverse=True)
    drawn = torch.randperm(num_classes)
    others = drawn[~torch.isin(drawn, present)][: max(0, num_sampled - len(present))]
    return torch.cat([present, others]), columns
