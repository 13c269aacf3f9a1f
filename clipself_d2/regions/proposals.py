"""Region proposals read from a COCO-format json, and the teacher's enlarged crops (released code, proposal recipe)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from clipself_d2 import schema
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

_NONE = np.zeros((0, 4), np.float32)


def load_proposals(json_file: str | Path, image_ids: Collection[Any] | None = None) -> dict[Any, np.ndarray]:
    """Read boxes by image; categories and scores are ignored.

    Boxes without area, or outside their image (if the file gives its size), are left out and counted in the log.

    Args:
        json_file: see `schema.Proposals`.
        image_ids: images that the proposals may name. None: those of the file's own ``"images"``, if any.

    Returns:
        Image id -> N x 4 float32 array of ``x0, y0, x1, y1`` in pixels, in the order of the file.

    Raises:
        InputError: a file that cannot be read, has another format, or names unknown images.
    """
    content = schema.read_json(json_file, schema.Proposals)
    images = schema.index_by_id(content.images or (), "image", json_file)
    named = {image_id: n for n, image_id in enumerate(dict.fromkeys(r.image_id for r in content.annotations))}
    if image_ids is not None or content.images is not None:
        _check_known(json_file, named, images if image_ids is None else image_ids)
    owner = np.array([named[region.image_id] for region in content.annotations], dtype=np.int64)
    boxes = np.array([region.bbox for region in content.annotations], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    listed = [images.get(image_id, schema.Image(image_id)) for image_id in named]
    limits = np.array([[image.width or np.inf, image.height or np.inf] for image in listed]).reshape(-1, 2)
    valid = (np.minimum(boxes[:, 2:], limits[owner]) > np.maximum(boxes[:, :2], 0)).all(axis=1)
    if not valid.all():
        logger.warning(
            "%s: %d of %d boxes are empty or outside their image and are left out",
            json_file,
            np.count_nonzero(~valid),
            len(valid),
        )
    owner, boxes = owner[valid], boxes[valid]
    order = np.argsort(owner, kind="stable")
    ends = np.bincount(owner, minlength=len(named)).cumsum()
    return {i: found for i, found in zip(named, np.split(boxes[order], ends[:-1]), strict=False) if len(found)}


def _check_known(json_file: str | Path, named: Collection[Any], known: Collection[Any]) -> None:
    unknown = list(set(named).difference(known))
    if unknown:
        some = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"{json_file}: proposals name {len(unknown)} unknown image ids ({some}): use the proposals of this data set"
        )


def _clip(boxes: np.ndarray, height: int, width: int, min_size: float, max_size: float) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the image, N x 4, and whether each is inside and was neither too small nor too large, N bool."""
    whole = torch.from_numpy(boxes).float().reshape(-1, 4)
    clipped = clip_boxes_to_image(whole, (height, width))
    area = (whole[:, 2:] - whole[:, :2]).prod(dim=1)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
    return clipped, inside & (area >= min_size**2) & (area <= max_size**2)


def enlarge(boxes: Tensor, scale: float, height: int, width: int) -> Tensor:
    """Enlarge boxes about their centers and clip them to the image: the teacher's view of a proposal.

    Args:
        boxes: R x 4 ``x0, y0, x1, y1`` in pixels.
        scale: factor on both sides (released code: 1.5).
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        R x 4 boxes.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)
    return clip_boxes_to_image(torch.cat([center - half, center + half], dim=1), (height, width))


class ProposalRegions:
    """Draws the regions of a training image from proposals: the student sees the box, the teacher a wider crop.

    As in the released code, boxes are drawn first and filtered by size second, before they are clipped to the image:
    fewer than `max_regions` may remain. If none remains, a box at the image's top left is used, a quarter of its sides.

    Args:
        json_file: see `load_proposals`.
        max_regions: boxes drawn.
        min_size: a region needs an area of at least min_size squared.
        max_size: and of at most max_size squared.
        crop_scale: see `enlarge`.

    Raises:
        InputError: see `load_proposals`; a file without any usable box; max_regions below 1.
    """

    def __init__(
        self,
        json_file: str | Path,
        max_regions: int = 20,
        min_size: float = 8.0,
        max_size: float = 1024.0,
        crop_scale: float = 1.5,
    ) -> None:
        if max_regions < 1:
            raise InputError(f"max_regions is {max_regions}: give a whole number of at least 1")
        self.json_file = json_file
        self.proposals = load_proposals(json_file)
        if not self.proposals:
            raise InputError(f"{json_file}: holds no usable proposal: give a file whose 'annotations' are not empty")
        self.max_regions = max_regions
        self.min_size = min_size
        self.max_size = max_size
        self.crop_scale = crop_scale

    def check(self, image_ids: Collection[int]) -> None:
        """Raise an InputError if a proposal belongs to none of the data set's images; warn of images without any."""
        _check_known(self.json_file, self.proposals.keys(), image_ids)
        if bare := len(set(image_ids)) - len(self.proposals):
            logger.warning("%s: no proposal for %d of %d images", self.json_file, bare, len(set(image_ids)))

    def __call__(
        self, image_id: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw regions; `rng` is the only source of randomness.

        Returns:
            The student's boxes and the teacher's crops, both R x 4 in pixels, R >= 1, and the R numbers of the crops.
        """
        proposals = self.proposals.get(image_id, _NONE)
        drawn = rng.permutation(len(proposals))[: self.max_regions]
        boxes, usable = _clip(proposals[drawn], height, width, self.min_size, self.max_size)
        if not usable.any():
            fallback = _fallback(height, width)
            return fallback, fallback.floor(), torch.tensor([len(proposals)])
        boxes = boxes[usable]
        return boxes, enlarge(boxes, self.crop_scale, height, width), torch.from_numpy(drawn)[usable]

    def num_crops(self, image_id: int) -> int:
        """Return the number of crops of an image: its proposals and, last, the fallback box."""
        return len(self.proposals.get(image_id, _NONE)) + 1

    def all_crops(self, image_id: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return every crop that may be drawn of an image, N x 4 in pixels, N >= 1, and the N numbers of the crops."""
        proposals = self.proposals.get(image_id, _NONE)
        boxes, usable = _clip(proposals, height, width, self.min_size, self.max_size)
        crops, numbers = enlarge(boxes[usable], self.crop_scale, height, width), usable.nonzero()[:, 0]
        unusable = len(proposals) - len(numbers)
        if unusable < min(len(proposals), self.max_regions):  # a draw cannot consist of unusable boxes alone
            return crops, numbers
        last = torch.tensor([len(proposals)])
        return torch.cat([crops, _fallback(height, width).floor()]), torch.cat([numbers, last])


def _fallback(height: int, width: int) -> Tensor:
    return torch.tensor([[0.0, 0.0, width / 4, height / 4]])
