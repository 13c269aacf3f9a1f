"""CLIPSelf: a tower's dense map learns from the same tower's embeddings of image crops (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from clipself_d2.clip.tower import ImageTower
from clipself_d2.distillation.correlation import CorrelationLoss
from clipself_d2.distillation.student import Student
from clipself_d2.distillation.teacher_cache import TeacherCache
from clipself_d2.regions.crop_embeddings import embed_crops


class CLIPSelf(Student):
    """Trains a tower's dense map to agree, region by region, with its frozen copy's embedding of the region's crop.

    The loss is `1 - mean cosine` over all regions of the batch, as in the released code; the paper's equation averages
    over the regions of an image and then over images. The trainer weights ranks by `num_loss_items`.

    Args:
        tower: see `Student`.
        student_size: see `Student`.
        teacher_cache: where the teacher's embeddings are kept; None computes them anew at each step.
        correlation: a second loss, that of a successor of CLIPSelf.
        options: the other arguments of `Student`.

    Raises:
        InputError: see `Student`, `TeacherCache.attach` and `CorrelationLoss.check`.
    """

    def __init__(
        self,
        tower: ImageTower,
        student_size: int,
        *,
        teacher_cache: TeacherCache | None = None,
        correlation: CorrelationLoss | None = None,
        **options: Any,
    ) -> None:
        super().__init__(tower, student_size, **options)
        self.correlation = correlation
        if correlation is not None:
            correlation.check(tower, self.dense_mode)
            self.hold_frozen("guide", correlation.guide)
        self.teacher_cache = teacher_cache
        if teacher_cache is not None:
            teacher_cache.attach(self.teacher, self.teacher_size)

    def losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One minus the cosine, and the correlation.

        Args:
            inputs: samples with `image` (3 x H x W uint8), `regions` and `crop_boxes` (`Boxes` in pixels of `image`,
                same order); an image without regions is legal.

        Returns:
            `{"loss_clipself": scalar}`, and `"loss_correlation"` where there is a correlation.
        """
        inputs = [x for x in inputs if len(x["regions"])] or inputs[:1]
        num_regions = self.num_loss_items(inputs)
        images = [x["image"].to(self.device, non_blocking=True) for x in inputs]
        targets = self.embed_crops(images, [x["crop_boxes"].tensor for x in inputs], inputs)
        letterboxed = self.letterbox(images)
        features = self.read(letterboxed, self.correlation.blocks(self.tower) if self.correlation else ())
        cosine = (features.pool_boxes([x["regions"].tensor for x in inputs]) * targets).sum(dim=-1)
        if num_regions and has_event_storage():
            storage = get_event_storage()
            storage.put_scalars(cosine=cosine.detach().mean(), regions_per_image=num_regions / len(inputs))
        losses = {"loss_clipself": (1 - cosine).sum() / max(num_regions, 1)}
        if self.correlation is not None:
            counts = [len(x["regions"]) for x in inputs]
            losses["loss_correlation"] = self.correlation(self.tower, letterboxed, features, counts)
        return losses

    @torch.no_grad()
    def embed_crops(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], samples: Sequence[dict[str, Any]] = ()
    ) -> Tensor:
        """The teacher's side: the ordinary image embedding of each crop.

        Args:
            images: 3 x H_i x W_i uint8, on any device.
            boxes: per image R_i x 4, in its pixels.
            samples: what a cache needs to know of the images and crops, see `TeacherCache`.

        Returns:
            sum(R_i) x C unit embeddings, fp32.
        """
        if self.teacher_cache is None:
            return embed_crops(self.teacher, images, boxes, self.teacher_size)
        embed = partial(embed_crops, self.teacher, size=self.teacher_size)
        rows = self.teacher_cache(embed, images, boxes, samples)
        return F.normalize(rows.to(self.device, non_blocking=True).float(), dim=-1)

    def num_loss_items(self, inputs: Sequence[dict[str, Any]]) -> int:
        """Number of regions, over which the loss is a mean; see `engine.Trainer`."""
        return sum(len(x["regions"]) for x in inputs)
