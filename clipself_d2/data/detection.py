"""Samples for detectors: large-scale jitter in training, the image as it is in evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.data.transforms import TransformList
from detectron2.structures import Instances

from clipself_d2.data.image import read_record
from clipself_d2.data.transforms import Size, random_resize_crop
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

_ATTEMPTS = 10  # windows drawn in search of an object, before the whole image is taken
_SMALLEST = 0.01  # pixels; an object whose box has a shorter side after the crop is dropped, as in the released code


class DetectionMapper:
    """Large-scale jitter, as the paper's detector is trained with: a function of the record and the generator alone.

    The long side of the image becomes `size` times a factor drawn from `scale_range`. A random window is taken of what
    is larger than size x size, and mirrored with probability `flip`. Where it shows no object all is drawn again, up to
    10 times, and then the whole image is taken. Nothing is padded.

    Detectron2's `DatasetMapper` draws from NumPy's global state, which a resumed run cannot reproduce; this mapper
    uses the same functions with a generator per sample.

    Args:
        size: the longest side of a sample, in pixels: the detector's.
        scale_range: smallest and largest factor on `size`.
        flip: probability of mirroring, 0..1.
        masks: whether samples have the masks of the objects; boxes are then those of the cropped masks.
        antialias: see `ResizeCropTransform`. The released code does not; Detectron2 does.

    Raises:
        InputError: if a value is out of its range.
    """

    def __init__(
        self,
        size: int,
        scale_range: tuple[float, float] = (0.1, 2.0),
        flip: float = 0.5,
        masks: bool = False,
        antialias: bool = False,
    ):
        low, high = scale_range
        if size < 1 or not 0 < low <= high or not 0 <= flip <= 1:
            raise InputError(
                f"DetectionMapper: size {size} must be positive, scale_range {tuple(scale_range)} positive and "
                f"ascending, flip {flip} within 0..1"
            )
        self.size = size
        self.scale_range = (low, high)
        self.flip = flip
        self.masks = masks
        self.antialias = antialias

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise InputError if the data set has no objects, or no masks where they are asked for."""
        objects = [x for record in records for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
        if not objects:
            raise InputError("the data set of the detector has no boxes: name one with objects (datasets/README.md)")
        bare = sum("segmentation" not in x for x in objects) if self.masks else 0
        if bare == len(objects):
            raise InputError("the data set of the detector has no 'segmentation': set masks=False, or name another")
        if bare:
            logger.warning("Left out %d of %d objects: they have no mask and become background", bare, len(objects))

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Map a dataset dict to a training sample.

        Args:
            record: Detectron2's dataset dict. Crowds are left out, and objects without a mask where masks are wanted.
            rng: draws the factor, the mirroring and the window.

        Returns:
            ``image`` (3 x h x w uint8, no side above size), ``file_name``, ``image_id``, ``height`` and ``width`` of
            the image before, and ``instances`` with ``gt_boxes``, ``gt_classes`` and, with masks, ``gt_masks``
            (`BitMasks`), in pixels of ``image``.

        Raises:
            ImageError: if the image cannot be read, or is not of the size in the record.
        """
        sample = read_record(record)
        fields = ("bbox", "bbox_mode", "category_id", *(["segmentation"] if self.masks else []))
        objects = [
            {field: x[field] for field in fields}
            for x in record.get("annotations", ())
            if not x.get("iscrowd", 0) and ("segmentation" in x or not self.masks)
        ]
        transforms, instances = self._draw(objects, (sample["height"], sample["width"]), rng)
        pixels = transforms.apply_image(sample["image"].permute(1, 2, 0).contiguous().numpy())
        return {
            **{key: sample[key] for key in ("file_name", "image_id", "height", "width")},
            "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
            "instances": instances,
        }

    def _draw(
        self, objects: Sequence[dict[str, Any]], source: Size, rng: np.random.Generator
    ) -> tuple[TransformList, Instances]:
        for _ in range(_ATTEMPTS):
            long_side = self.size * rng.uniform(*self.scale_range)
            transforms, shape = random_resize_crop(source, long_side, self.size, self.flip, rng, self.antialias)
            instances = self._instances(objects, transforms, shape)
            if len(instances) or not objects:
                return transforms, instances
        transforms, shape = random_resize_crop(source, self.size, self.size, self.flip, rng, self.antialias)
        return transforms, self._instances(objects, transforms, shape)

    def _instances(self, objects: Sequence[dict[str, Any]], transforms: TransformList, shape: Size) -> Instances:
        seen = [transform_instance_annotations(dict(x), transforms, shape) for x in objects]
        # Before the masks are rasterized, which takes the most time.
        seen = [x for x in seen if (x["bbox"][2:] - x["bbox"][:2]).min() > _SMALLEST]
        instances = annotations_to_instances(seen, shape, mask_format="bitmask")
        if instances.has("gt_masks"):
            instances = instances[instances.gt_masks.nonempty()]
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return instances


class ImageMapper:
    """Reads the image of a record for evaluation; the model resizes it.

    Args:
        min_decode_size: see `read_image`; no less than the model's size. None: whole.
    """

    def __init__(self, min_decode_size: int | None = None):
        self.min_decode_size = min_decode_size

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map a dataset dict to an evaluation sample.

        Returns:
            The record without ``annotations``, with ``image`` (3 x H x W uint8), and ``height`` and ``width`` of the
            whole image.

        Raises:
            ImageError: if the image cannot be read, or is not of the size in the record.
        """
        sample = read_record(record, self.min_decode_size)
        sample.pop("annotations", None)
        return sample
