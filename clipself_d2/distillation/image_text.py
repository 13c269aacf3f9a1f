"""Image-text supervision alone: what a tower gains from large images without regions (paper, Table 1c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from clipself_d2.clip.text import TextTower
from clipself_d2.clip.tower import ImageTower
from clipself_d2.distillation.student import Student
from clipself_d2.errors import InputError


class ImageText(Student):
    """Trains a tower's class token on large images, by CLIP's own loss against frozen caption embeddings.

    The loss is the symmetric cross-entropy of Radford et al. (2021, section 2.3) over the pairs of all ranks: each
    image is to be told from the others by its caption, and each caption by its image. With accumulated gradients, a
    pair competes with those of its chunk alone. The text tower and its temperature stay as they are.

    The dense map is evaluated but never trained. This is the paper's check that CLIPSelf teaches more than the sight of
    large images.

    Args:
        tower: see `Student`.
        text_tower: of the same CLIP; held frozen.
        student_size: see `Student`.
        options: the other arguments of `Student`. All of the last block trains, queries and keys included.

    Raises:
        InputError: see `Student`; towers with embeddings of different lengths.
    """

    text_tower: TextTower

    def __init__(self, tower: ImageTower, text_tower: TextTower, student_size: int, **options: Any) -> None:
        if tower.embed_dim != text_tower.embed_dim:
            raise InputError(
                f"model: the image tower has embeddings of {tower.embed_dim}, the text tower of "
                f"{text_tower.embed_dim}: name the two towers of one CLIP"
            )
        super().__init__(tower, student_size, **options)
        # The class token goes through the whole last block, whatever the evaluated dense map leaves out.
        tower.set_trainable_blocks(self.trainable_blocks, "full")
        self.hold_frozen("text_tower", text_tower)

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The contrastive loss; 0 for a single pair.

        Args:
            inputs: samples with `image` (3 x H x W uint8) and `caption`, which is cut to the text tower's context. An
                image without a caption takes no part.

        Returns:
            `{"loss_image_text": scalar}`.
        """
        captioned = [x for x in inputs if x.get("caption")]
        counts = comm.all_gather(len(captioned))
        # Without captions one image still goes through the tower, as every trainable parameter needs a gradient.
        images = self.embed_images([x["image"] for x in captioned or inputs[:1]])[: len(captioned)]
        texts = self.embed_captions([x["caption"] for x in captioned])
        # In fp32: bf16 would round the logits, up to 100, by a quarter.
        with torch.autocast(self.device.type, enabled=False):
            scale = self.text_tower.logit_scale.exp()
            by_image = scale * images @ gather_rows(texts, counts).T
            by_caption = scale * texts @ gather_rows(images, counts).T
        targets = torch.arange(len(captioned), device=self.device) + sum(counts[: comm.get_rank()])
        image_loss = F.cross_entropy(by_image, targets, reduction="sum")
        text_loss = F.cross_entropy(by_caption, targets, reduction="sum")
        if captioned and has_event_storage():
            accuracy = (by_image.argmax(dim=1) == targets).float().mean()
            get_event_storage().put_scalars(caption_accuracy=accuracy)
        return {"loss_image_text": (image_loss + text_loss) / 2 / max(len(captioned), 1)}

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """The tower's ordinary image embeddings of whole images (3 x H_i x W_i uint8): B x C unit, fp32."""
        return F.normalize(self.tower.image_embeddings(self.letterbox(images).pixels).float(), dim=-1)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """The text tower's embeddings: N x C unit, fp32."""
        if not captions:
            return torch.zeros(0, self.text_tower.embed_dim, device=self.device)
        return F.normalize(self.text_tower(captions).float(), dim=-1)

    def num_loss_items(self, inputs: Sequence[dict[str, Any]]) -> int:
        """Number of pairs, over which the loss is a mean; see `engine.Trainer`."""
        return sum(bool(x.get("caption")) for x in inputs)


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks, in order of the ranks; a gradient flows back to the rank whose row it is of.

    Args:
        rows: R x C, this rank's.
        counts: R of every rank.

    Returns:
        sum(counts) x C.
    """
    if len(counts) == 1:
        return rows
    padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows)))  # the collective wants equal shapes
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts, strict=True)])
