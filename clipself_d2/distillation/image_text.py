"""Image-text supervision alone: what a tower gains from seeing large images, without regions (paper, Table 1c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from clipself_d2.clip.text import TextTower
from clipself_d2.clip.tower import ImageTower
from clipself_d2.distillation.student import Student
from clipself_d2.errors import InputError


@META_ARCH_REGISTRY.register()
class ImageText(Student):
    """Trains a tower's class token on large images, by CLIP's own loss against frozen caption embeddings.

    The loss is the symmetric cross-entropy of Radford et al. (2021, section 2.3) over the pairs of all ranks: each
    image is to be told from the others by its caption, and each caption by its image. With accumulated gradients a pair
    is told from those of its chunk alone. The text tower and its temperature stay as they are.

    The dense map is never trained, only evaluated: the paper's check that what CLIPSelf teaches is not the mere sight
    of large images.

    Args:
        tower: see `Student`, as for all that follow but `text_tower`.
        text_tower: of the same CLIP; kept aside, frozen.
        student_size: side of the square that whole images are letterboxed into, in pixels; a multiple of the stride.
        crop_size: side of the crops of evaluation, pixels; None for the tower's native size.
        trainable_blocks: the last blocks that train, queries and keys of the last one too; None for all blocks.
        alpha: weight of the trained tower in what is exported and evaluated, 0..1.
        dense_mode: dense mode of evaluation.
        mask_resize: of evaluation, see `regions.resize_masks`.
        activation_checkpointing: recompute the tower's blocks in the backward pass to save memory.

    Raises:
        InputError: what `Student` raises; towers of different embeddings.
    """

    def __init__(
        self,
        tower: ImageTower,
        text_tower: TextTower,
        student_size: int,
        crop_size: int | None = None,
        trainable_blocks: int | None = None,
        alpha: float = 1.0,
        dense_mode: str = "no_attn",
        mask_resize: str = "area",
        activation_checkpointing: bool = False,
    ) -> None:
        if tower.embed_dim != text_tower.embed_dim:
            raise InputError(
                f"model: the image tower has embeddings of {tower.embed_dim}, the text tower of "
                f"{text_tower.embed_dim}: name the two towers of one CLIP"
            )
        super().__init__(
            tower, student_size, crop_size, trainable_blocks, alpha,
            dense_mode=dense_mode, mask_resize=mask_resize, activation_checkpointing=activation_checkpointing,
        )  # fmt: skip
        # The class token goes through the whole last block, whatever the dense map that is evaluated leaves out.
        tower.set_trainable_blocks(self.trainable_blocks, "full")
        self.hold_frozen(text_tower)

    @property
    def text_tower(self) -> TextTower:
        """The frozen text tower."""
        return self._frozen[1]  # type: ignore[return-value]

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The contrastive loss; that of a single pair is 0.

        Args:
            inputs: samples with `image` (3 x H x W uint8) and `caption`, which is cut where the text tower's context
                ends. An image without a caption takes no part.

        Returns:
            `{"loss_image_text": scalar}`.
        """
        captioned = [x for x in inputs if x.get("caption")]
        counts = comm.all_gather(len(captioned))
        views = [x["image"].to(self.device, non_blocking=True) for x in captioned or inputs[:1]]
        images = self.embed_images(views)[: len(captioned)]
        texts = self.embed_captions([x["caption"] for x in captioned])
        # In fp32, as bf16 would round the logits, up to 100, by a quarter.
        with torch.autocast(self.device.type, enabled=False):
            scale = self.text_tower.logit_scale.exp()
            by_image = scale * images @ gather_rows(texts, counts).T
            by_caption = scale * texts @ gather_rows(images, counts).T
        targets = torch.arange(len(captioned), device=self.device) + sum(counts[: comm.get_rank()])
        loss = sum(F.cross_entropy(logits, targets, reduction="sum") for logits in (by_image, by_caption)) / 2
        if captioned and has_event_storage():
            accuracy = (by_image.argmax(dim=1) == targets).float().mean()
            get_event_storage().put_scalars(caption_accuracy=accuracy)
        return {"loss_image_text": loss / max(len(captioned), 1)}

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """The tower's ordinary image embeddings of whole images (3 x H_i x W_i uint8): B x C unit, fp32."""
        pixels, _ = self.student_view(images)
        return F.normalize(self.tower.image_embeddings(pixels).float(), dim=-1)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """The text tower's embeddings: N x C unit, fp32."""
        if not captions:
            return torch.zeros(0, self.text_tower.embed_dim, device=self.device)
        return F.normalize(self.text_tower(captions).float(), dim=-1)

    def num_loss_items(self, inputs: Sequence[dict[str, Any]]) -> int:
        """Number of pairs, over which the loss is a mean; see `engine.Trainer`."""
        return sum(bool(x.get("caption")) for x in inputs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the tower's forward; reading lists of samples stays as it is. Arguments: `torch.compile`'s."""
        self.tower.image_embeddings = torch.compile(self.tower.image_embeddings, *args, **kwargs)  # type: ignore[method-assign]


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
