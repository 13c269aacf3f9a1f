"""CLIP pretraining at the miniature's size: images and captions, symmetric cross-entropy over a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from clipself_d2.clip import build_towers, save_checkpoint

_MAX_LOG_SCALE = math.log(100)


class ImageTextCLIP(nn.Module):
    """Both towers of a CLIP, trained together on captioned images (Radford et al., 2021, section 2.3).

    The negatives of an image are the other captions of the rank's own batch: train it with one rank.

    Args:
        name: the model, see `clip.build_towers`.
        pretrained: where training starts; None for scratch.
    """

    def __init__(self, name: str, pretrained: str | None = None) -> None:
        super().__init__()
        self.image_tower, self.text_tower = build_towers(name, pretrained)
        self.requires_grad_(True)

    def forward(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the contrastive loss of samples with `image` (3 x S x S uint8, S the native size) and `caption`."""
        device = self.image_tower.pixel_mean.device
        pixels = self.image_tower.normalize(torch.stack([x["image"] for x in inputs]).to(device))
        images = F.normalize(self.image_tower.image_embeddings(pixels).float(), dim=-1)
        texts = F.normalize(self.text_tower([x["caption"] for x in inputs]).float(), dim=-1)
        scale = self.text_tower.logit_scale.clamp(max=_MAX_LOG_SCALE).exp()
        logits = scale * images @ texts.T
        target = torch.arange(len(inputs), device=device)
        if has_event_storage():
            accuracy = (logits.argmax(dim=1) == target).float().mean()
            get_event_storage().put_scalars(batch_accuracy=accuracy, logit_scale=scale.detach())
        return {"loss_contrastive": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}


class CLIPExport:
    """Export of the whole CLIP in half precision, in open_clip's format, with a card."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: ImageTextCLIP, path: str | Path, card: Mapping[str, Any]) -> None:
        """Write the model to `path` (`NAME.safetensors`) and the card to `NAME.json`."""
        state = {**model.image_tower.state_dict(), **model.text_tower.state_dict()}
        save_checkpoint({key: value.half() for key, value in state.items()}, path, {"model": self.name, **card})
