"""Pseudo pairs of region and noun: CLIP assigns each proposal of an image a noun of the image's captions.

As in RegionCLIP (Zhong et al., CVPR 2022, section 3.2), with nouns from the image's own captions, as in the paper's
region-text baseline (appendix A.4): the proposal is cropped, enlarged as for CLIPSelf's teacher, and the crop's image
embedding is compared with the nouns'. The authors released a file of pairs, not the code that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from clipself_d2.data.coco_json import box_fields
from clipself_d2.regions import RegionEmbedder, enlarge


@dataclass(frozen=True)
class PseudoPairs:
    """Regions of an image and their nouns.

    Attributes:
        boxes: R x 4, in pixels of the image.
        nouns: R numbers of nouns.
        scores: R cosines of crop and noun.
    """

    boxes: Tensor
    nouns: Tensor
    scores: Tensor

    def to_json(self) -> list[dict[str, Any]]:
        """Return annotations in COCO's format, whose category id is the number of the noun plus one."""
        fields = zip(self.nouns.tolist(), box_fields(self.boxes), self.scores.tolist(), strict=True)
        return [{"category_id": noun + 1, **box, "score": round(score, 4)} for noun, box, score in fields]


def best_nouns(crops: Tensor, nouns: Tensor, candidates: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The best candidate noun of each crop.

    Args:
        crops: R x C unit vectors.
        nouns: K x C unit vectors.
        candidates: numbers of nouns, at least one.

    Returns:
        R cosines, and R numbers of nouns; of equal cosines the first candidate's.
    """
    rows = torch.tensor(candidates, device=nouns.device)
    cosines = crops @ nouns[rows].T
    best = cosines.argmax(dim=1)
    return cosines.gather(1, best[:, None])[:, 0], rows[best]


def match_pairs(
    embedder: RegionEmbedder,
    samples: Sequence[Mapping[str, Any]],
    proposals: Mapping[int, np.ndarray],
    nouns: Mapping[int, Sequence[int]],
    embeddings: Tensor,
    *,
    crop_scale: float = 1.5,
    threshold: float = -1.0,
) -> list[PseudoPairs]:
    """Assign nouns to the proposals of images.

    Args:
        embedder: embeds the crops.
        samples: at least one of `ImageMapper`'s.
        proposals: by image id, N x 4 in pixels, as `load_proposals` gives them.
        nouns: by image id, numbers of at least one noun.
        embeddings: K x C unit vectors of the nouns, on the embedder's device.
        crop_scale: sides of the crop over those of the proposal.
        threshold: pairs with a lower cosine are left out.

    Returns:
        The pairs of each sample, in the order of its proposals, on the CPU.
    """
    boxes, crops = [], []
    for sample in samples:
        size = sample["height"], sample["width"]
        inside = clip_boxes_to_image(torch.from_numpy(proposals[sample["image_id"]]), size)
        boxes.append(inside[(inside[:, 2:] > inside[:, :2]).all(dim=1)])
        crops.append(enlarge(boxes[-1], crop_scale, *size))
    images = [sample["image"].to(embeddings.device, non_blocking=True) for sample in samples]
    with torch.inference_mode():
        embedded = embedder.embed_crops(images, crops)
        best = [best_nouns(x, embeddings, nouns[y["image_id"]]) for x, y in zip(embedded, samples, strict=True)]
    pairs = []
    for box, (scores, rows) in zip(boxes, best, strict=True):
        kept = scores.cpu() >= threshold
        pairs.append(PseudoPairs(box[kept], rows.cpu()[kept], scores.cpu()[kept]))
    return pairs
