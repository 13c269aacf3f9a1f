"""SAM, SAM 2 and their kin of the `transformers` library as mask generators: masks of everything, without classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import resize, to_pil_image

from clipself_d2.errors import InputError, require
from clipself_d2.panoptic.masks import MaskPredictions, binary_logits
from clipself_d2.panoptic.transformers_masks import load_published
from clipself_d2.vocabulary import Vocabulary

_LONG_SIDE = 1024  # of SAM's input, in pixels; larger masks would have no more detail


class SAMMasks(nn.Module):
    """The masks that SAM finds by a grid of points, all classes alike; its predicted IoU weighs the final scores.

    transformers' mask generation does the work: each point gives three masks; those of a low predicted IoU or stability
    are dropped, then duplicates by the overlap of their boxes. Weights are read from safetensors only.

    Args:
        name: a folder with config.json, preprocessor_config.json and model.safetensors, or a name on the Hugging Face
            hub that is in its local cache, such as "facebook/sam-vit-base" or "facebook/sam2.1-hiera-small".
        points_per_side: of the grid; half as many take a quarter of the time and miss small objects.
        min_iou: lowest IoU that SAM predicts for a mask.
        min_stability: lowest IoU of a mask with itself at a stricter threshold.
        nms: IoU of boxes above which the worse of two masks is dropped.
        download: fetch what is not in the local cache from the hub.

    Raises:
        InputError: transformers is not installed; the model is missing, is no SAM, or has no safetensors; a value out
            of its range.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        points_per_side: int = 32,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
        nms: float = 0.7,
        download: bool = False,
    ) -> None:
        super().__init__()
        if points_per_side < 1:
            raise InputError(f"points_per_side={points_per_side}: give at least 1")
        for key, value in (("min_iou", min_iou), ("min_stability", min_stability), ("nms", nms)):
            if not 0 <= value <= 1:
                raise InputError(f"{key}={value}: must be within 0..1")
        require("transformers", "panoptic", "SAMMasks")
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration

        self.model = load_published(AutoModelForMaskGeneration, str(name), download)
        self.processor = load_published(AutoImageProcessor, str(name), download)
        self.settings = {
            "points_per_crop": points_per_side,
            "pred_iou_thresh": min_iou,
            "stability_score_thresh": min_stability,
            "crops_nms_thresh": nms,
        }

    def forward(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """Find masks image by image, as a `MaskGenerator`; all classes are equally likely, void impossible."""
        return [_alike(*self._find(x["image"]), len(vocabulary)) for x in inputs]

    def train(self, mode: bool = True) -> SAMMasks:
        """Stay in evaluation mode: SAM is never trained here."""
        return super().train(False)

    @torch.no_grad()
    def _find(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Masks, Q x h x w bool, of an image, 3 x H x W, at most `_LONG_SIDE` pixels long; and their predicted IoUs."""
        from transformers import MaskGenerationPipeline

        scale = min(1.0, _LONG_SIDE / max(image.shape[1:]))
        height, width = (max(1, round(side * scale)) for side in image.shape[1:])
        # SAM 2 reads squashed squares, on which transformers' points leave out a part: what is square already has none.
        keeps_aspect = "longest_edge" in dict(self.processor.size)
        pixels = resize(image.cpu(), [height, width] if keeps_aspect else [max(height, width)] * 2)
        device = self.model.device
        generate = MaskGenerationPipeline(model=self.model, image_processor=self.processor, device=device)
        with torch.autocast(device.type, enabled=False):  # bfloat16 is coarser than the differences of IoUs
            found = generate(to_pil_image(pixels), **self.settings)
        iou = torch.as_tensor(found["scores"]).float().cpu().clamp(0, 1)
        if not len(iou):
            return torch.zeros(0, height, width, dtype=torch.bool), iou
        masks = torch.stack([torch.from_numpy(np.asarray(mask)) for mask in found["masks"]])
        return F.interpolate(masks[:, None].byte(), (height, width), mode="nearest-exact")[:, 0].bool(), iou


def _alike(masks: Tensor, iou: Tensor, num_classes: int) -> MaskPredictions:
    scores = torch.zeros(len(masks), num_classes + 1)
    scores[:, :-1] = 1 / num_classes
    return MaskPredictions(binary_logits(masks), scores.log(), iou)
