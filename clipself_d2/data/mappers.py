"""From a dataset dict to a sample: what training and region classification are fed with."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.structures import Boxes
from PIL import Image
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, masks_to_boxes

from clipself_d2.data.image import ImageError, image_size, read_image
from clipself_d2.errors import InputError
from clipself_d2.regions import enlarge

logger = logging.getLogger(__name__)


class RegionSampler(Protocol):
    """Draws regions of an image: `GridRegions`, `ProposalRegions`, or anything alike."""

    def __call__(self, image_id: int, height: int, width: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Returns the student's boxes and the teacher's crops, both R x 4 in pixels."""

    def all_crops(self, image_id: int, height: int, width: int) -> Tensor:
        """Every teacher's crop that may be drawn of an image, N x 4 in pixels."""


class DistillationMapper:
    """Reads a photograph and draws its regions; a function of the record and the generator alone."""

    def __init__(self, regions: RegionSampler, min_decode_size: tuple[int, int] | None = None):
        """Keeps the sampler of regions.

        Args:
            regions: e.g. ``GridRegions(max_split=6)``; it sees the photograph's own size.
            min_decode_size: student's and teacher's size. Large JPEGs are then decoded at the smallest scale that keeps
                so many pixels of the photograph's long side and of every crop's that may be drawn, see `read_image`: a
                function of the photograph, so that a cache of the teacher finds what it holds. None: whole.
        """
        self.regions = regions
        self.min_decode_size = min_decode_size

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError if the sampler of regions does not fit the data set."""
        if hasattr(self.regions, "check"):
            self.regions.check({record["image_id"] for record in records})

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Maps a record of `load_image_list` to a training sample.

        Returns:
            ``image`` (3 x H x W uint8), ``image_key`` (see `image_key`), ``file_name``, ``image_id``, the photograph's
            ``height`` and ``width``, and the `Boxes` ``regions`` and ``crop_boxes`` (the teacher's view of each
            region), in pixels of the image.

        Raises:
            ImageError: if the photograph cannot be read.
        """
        height, width = image_size(record["file_name"])
        regions, crops = self.regions(record["image_id"], height, width, rng)
        return self._sample(record, height, width, crop_boxes=crops, regions=regions)

    def all_crops(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The sample of a record with every crop that may be drawn as ``crop_boxes``, and without ``regions``.

        Raises:
            ImageError: if the photograph cannot be read.
        """
        height, width = image_size(record["file_name"])
        crops = self.regions.all_crops(record["image_id"], height, width)
        return self._sample(record, height, width, crop_boxes=crops)

    def _sample(self, record: Mapping[str, Any], height: int, width: int, **boxes: Tensor) -> dict[str, Any]:
        image = read_image(record["file_name"], self._long_side(record["image_id"], height, width))
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
        return {
            "image": image,
            "image_key": image_key(Path(record["file_name"]).read_bytes(), *image.shape[1:]),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": height,
            "width": width,
            **{name: Boxes(each * scale) for name, each in boxes.items()},
        }

    def _long_side(self, image_id: int, height: int, width: int) -> int | None:
        """What the photograph's long side must keep, in pixels."""
        if self.min_decode_size is None:
            return None
        student, teacher = self.min_decode_size
        crops, whole = self.regions.all_crops(image_id, height, width), max(height, width)
        smallest = (crops[:, 2:] - crops[:, :2]).amax(dim=1).min().item() if len(crops) else whole
        # Half a percent of a pixel is what the boxes' arithmetic may be off.
        return min(whole, max(student, math.ceil(teacher * whole / max(smallest, 1) - 0.005)))


def image_key(content: Any, height: int, width: int) -> bytes:
    """16 bytes that stand for the content of a photograph as it was read.

    Args:
        content: bytes, or an array of them: of the file, or the pixels.
        height: rows of the image as it was decoded, for a file may be decoded at several sizes.
        width: its columns.
    """
    return hashlib.blake2b(content, digest_size=16, person=np.array([height, width], "<u4").tobytes()).digest()


class PanopticRegionMapper:
    """Reads a photograph and its panoptic segments as labelled regions, by the rules of the released code.

    A thing's box is that of the json and its crop 1.5 times as large; stuff has the tight box of its mask, and that for
    a crop. Segments without a pixel, or whose box is too small or too large, are left out and counted. Crowds stay.
    """

    def __init__(
        self, max_segments: int = 100, min_size: float = 8.0, max_size: float = 1024.0, crop_scale: float = 1.5
    ):
        """Sets the protocol.

        Args:
            max_segments: only so many segments of an image, the first, are considered.
            min_size: a box needs an area of at least min_size squared, in pixels of the photograph.
            max_size: and of at most max_size squared.
            crop_scale: the teacher's view of a thing, as a factor on the sides of its box.
        """
        self.max_segments = max_segments
        self.min_size = min_size
        self.max_size = max_size
        self.crop_scale = crop_scale

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Maps a record of `load_panoptic` to an evaluation sample.

        Returns:
            The record with ``image`` (3 x H x W uint8), ``boxes`` and ``crop_boxes`` (`Boxes`), ``masks`` (R x H x W
            bool), ``classes`` (R long), ``isthing`` (R bool), and ``skipped_segments``, how many were left out.

        Raises:
            ImageError: if the photograph or its PNG cannot be read.
            InputError: if they differ in size.
        """
        image = read_image(record["file_name"])
        height, width = image.shape[1:]
        labels = read_panoptic_png(record["pan_seg_file_name"])
        if labels.shape != (height, width):
            raise InputError(
                f"{record['pan_seg_file_name']}: is {labels.shape[1]} x {labels.shape[0]} pixels, its photograph "
                f"{width} x {height}: use the annotations of this photograph"
            )
        segments = record["segments_info"][: self.max_segments]
        masks = labels == torch.tensor([s["id"] for s in segments], dtype=torch.long)[:, None, None]
        isthing = torch.tensor([s["isthing"] for s in segments], dtype=torch.bool)
        boxes = torch.tensor([s["bbox"] for s in segments], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        # Last pixels count as edges, so the box of stuff is a pixel narrower than the mask: as released.
        visible = masks.flatten(1).any(dim=1)
        boxes[~isthing & visible] = masks_to_boxes(masks[~isthing & visible])
        boxes = clip_boxes_to_image(boxes, (height, width))

        sides = boxes[:, 2:] - boxes[:, :2]
        area = sides.prod(dim=1)
        keep = visible & (sides > 0).all(dim=1) & (area >= self.min_size**2) & (area <= self.max_size**2)
        isthing, boxes = isthing[keep], boxes[keep]
        crops = enlarge(boxes, self.crop_scale, height, width).where(isthing[:, None], boxes)
        return {
            **record,
            "image": image,
            "height": height,
            "width": width,
            "boxes": Boxes(boxes),
            "crop_boxes": Boxes(crops),
            "masks": masks[keep],
            "classes": torch.tensor([s["category_id"] for s in segments], dtype=torch.long)[keep],
            "isthing": isthing,
            "skipped_segments": len(record["segments_info"]) - int(keep.sum()),
        }


def read_panoptic_png(path: str) -> Tensor:
    """Segment ids of a panoptic PNG, red + 256 green + 65536 blue: H x W long.

    Raises:
        ImageError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            red, green, blue = np.asarray(image.convert("RGB"), dtype=np.int64).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: the panoptic PNG cannot be read ({error}): download it again") from error
    return torch.from_numpy(red + 256 * green + 65536 * blue)
