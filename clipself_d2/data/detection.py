"""Samples for detectors: large-scale jitter in training, the photograph as it is in evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from clipself_d2.data.image import ImageError, image_size, read_image
from clipself_d2.errors import InputError

_ATTEMPTS = 10  # crops drawn in search of an object, before the whole photograph is taken
_SMALLEST = 0.01  # pixels; an object whose box is narrower or lower after the crop is dropped, as released


@dataclass(frozen=True)
class View:
    """A crop of a resized and perhaps mirrored photograph.

    All sizes are in pixels: ``source`` (H, W) of the photograph, ``resized`` (h, w) of it before the crop, ``top`` and
    ``left`` of the crop in that, ``shape`` (ch, cw) of the crop; ``mirrored`` says whether left and right are swapped.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int
    shape: tuple[int, int]
    mirrored: bool

    @classmethod
    def whole(cls, source: tuple[int, int], long_side: float, mirrored: bool = False) -> View:
        """All of the photograph, its aspect kept, its long side so many pixels; no side is less than one pixel."""
        factor = long_side / max(source)
        resized = max(1, round(source[0] * factor)), max(1, round(source[1] * factor))
        return cls(source, resized, 0, 0, resized, mirrored)

    def crop(self, size: int, rng: np.random.Generator) -> View:
        """A window of at most size x size pixels, anywhere in this view with the same chance."""
        height, width = min(size, self.resized[0]), min(size, self.resized[1])
        top = int(rng.integers(self.resized[0] - height + 1))
        left = int(rng.integers(self.resized[1] - width + 1))
        return View(self.source, self.resized, top, left, (height, width), self.mirrored)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the photograph (R x 4, x0, y0, x1, y1) in pixels of the view, clipped to it."""
        height, width = self.shape
        seen = self._points(boxes.reshape(-1, 2)).reshape(-1, 4)
        seen = seen.clip(0, [width, height, width, height])
        if self.mirrored:
            seen[:, [0, 2]] = width - seen[:, [2, 0]]
        return seen

    def image(self, image: Tensor) -> Tensor:
        """The view of a photograph, 3 x H x W uint8, bilinear and antialiased: 3 x ch x cw."""
        pixels = self._resample(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def labels(self, labels: Tensor) -> Tensor:
        """The view of semantic labels, H x W long, each pixel the nearest one's: ch x cw long."""
        pixels = Image.fromarray(labels.numpy().astype(np.int32))
        return torch.from_numpy(self._resample(pixels, Image.Resampling.NEAREST).astype(np.int64))

    def mask(self, segmentation: Mapping[str, Any] | Sequence[Sequence[float]]) -> np.ndarray:
        """The view of a COCO segmentation (polygons or run lengths): ch x cw bool."""
        if not isinstance(segmentation, Mapping):
            polygons = [self._points(np.asarray(p, dtype=float).reshape(-1, 2)).ravel() for p in segmentation]
            seen = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *self.shape))).astype(bool)
            return seen[:, ::-1] if self.mirrored else seen
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        return self._resample(Image.fromarray(coco_mask.decode(segmentation) * np.uint8(255))) > 127

    def _points(self, points: np.ndarray) -> np.ndarray:
        """N x 2 points x, y of the photograph in the view, not mirrored."""
        scale = self.resized[1] / self.source[1], self.resized[0] / self.source[0]
        return points * scale - (self.left, self.top)

    def _resample(self, image: Image.Image, method: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
        """Resizes only what the crop shows: the same pixels as cropping the resized image, whatever its size."""
        (height, width), down, right = self.shape, self.source[0] / self.resized[0], self.source[1] / self.resized[1]
        window = (
            self.left * right,
            self.top * down,
            min((self.left + width) * right, self.source[1]),
            min((self.top + height) * down, self.source[0]),
        )
        pixels = np.asarray(image.resize((width, height), method, box=window))
        return pixels[:, ::-1] if self.mirrored else pixels


class DetectionMapper:
    """Large-scale jitter, as the paper's detector is trained with; a function of the record and the generator alone.

    The photograph's long side becomes ``size`` times a factor drawn from ``scale_range``; of what is larger than size x
    size a random window is taken; it is mirrored with probability ``flip``. Where no object is left, it is drawn again,
    at last without a crop. Nothing is padded.
    """

    def __init__(
        self, size: int, scale_range: tuple[float, float] = (0.1, 2.0), flip: float = 0.5, masks: bool = False
    ):
        """Sets the jitter.

        Args:
            size: the longest side of a sample, in pixels: the detector's.
            scale_range: least and largest factor on `size`.
            flip: probability of mirroring, 0..1.
            masks: whether to give the masks of the objects; their boxes are then recomputed from the cropped masks.

        Raises:
            InputError: if a value is out of its range.
        """
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

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError if the data set has no objects, or no masks where they are asked for."""
        objects = [x for record in records for x in record.get("annotations", ())]
        if not objects:
            raise InputError("the data set of the detector has no boxes: name one with objects (datasets/README.md)")
        if self.masks and not any("segmentation" in x for x in objects):
            raise InputError("the data set of the detector has no 'segmentation': set masks=False, or name another")

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Maps a dataset dict to a training sample.

        Args:
            record: Detectron2's dataset dict; ``category_id`` counts from 0 in ``thing_classes``. Crowds are left out.
            rng: draws the factor, the window and the mirroring.

        Returns:
            ``image`` (3 x h x w uint8, no side above size), ``file_name``, ``image_id``, ``height`` and ``width`` of
            the photograph, and ``instances`` with ``gt_boxes`` (`Boxes`), ``gt_classes`` (R long) and, on request,
            ``gt_masks`` (`BitMasks`), in pixels of ``image``.

        Raises:
            ImageError: if the photograph cannot be read, or is not of the size that the record tells.
        """
        image, source = _read(record)
        objects = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
        if self.masks:
            objects = [x for x in objects if "segmentation" in x]
        view, instances = self._look(objects, source, rng)
        return {
            "image": view.image(image),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": view.source[0],
            "width": view.source[1],
            "instances": instances,
        }

    def _look(
        self, objects: Sequence[Mapping[str, Any]], source: tuple[int, int], rng: np.random.Generator
    ) -> tuple[View, Instances]:
        """Draws a view with an object in it, and what is in it."""
        for _ in range(_ATTEMPTS):
            view = View.whole(source, self.size * rng.uniform(*self.scale_range), rng.random() < self.flip)
            view = view.crop(self.size, rng)
            instances = self._instances(objects, view)
            if len(instances) or not objects:
                return view, instances
        view = View.whole(source, self.size, rng.random() < self.flip)
        return view, self._instances(objects, view)

    def _instances(self, objects: Sequence[Mapping[str, Any]], view: View) -> Instances:
        boxes = view.boxes(np.array([_corners(x) for x in objects], dtype=float).reshape(-1, 4))
        kept = np.flatnonzero(_sides(boxes) > _SMALLEST)
        boxes = boxes[kept]
        instances = Instances(view.shape)
        if self.masks:
            masks = np.array([view.mask(objects[i]["segmentation"]) for i in kept], dtype=bool)
            masks = masks.reshape(-1, *view.shape)
            visible = masks.any(axis=(1, 2))
            kept, masks = kept[visible], masks[visible]
            boxes = _tight_boxes(masks)
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
        instances.gt_classes = torch.tensor([objects[i]["category_id"] for i in kept], dtype=torch.long)
        return instances


class ImageMapper:
    """Reads the photograph of a record for evaluation; the model resizes it."""

    def __init__(self, min_decode_size: int | None = None):
        """Sets how photographs are decoded.

        Args:
            min_decode_size: large JPEGs are decoded at a reduced scale that keeps so many pixels of the long side, see
                `read_image`; no less than the model's size. None: whole.
        """
        self.min_decode_size = min_decode_size

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Maps a dataset dict to an evaluation sample.

        Returns:
            The record without ``annotations``, with ``image`` (3 x H x W uint8), and ``height`` and ``width`` of the
            photograph, which are those of the image where it was decoded whole.

        Raises:
            ImageError: if the photograph cannot be read, or is not of the size that the record tells.
        """
        image, (height, width) = _read(record, self.min_decode_size)
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return {**kept, "image": image, "height": height, "width": width}


def _read(record: Mapping[str, Any], min_decode_size: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """The image, and rows and columns of the photograph."""
    image = read_image(record["file_name"], min_decode_size)
    height, width = image.shape[1:] if min_decode_size is None else image_size(record["file_name"])
    told = record.get("height", height), record.get("width", width)
    if told != (height, width):
        raise ImageError(
            f"{record['file_name']}: is {width} x {height} pixels, its annotations are for {told[1]} x {told[0]}: "
            "use the photograph that was annotated"
        )
    return image, (height, width)


def _corners(annotation: Mapping[str, Any]) -> list[float]:
    return BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """The shorter side of each box: R."""
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _tight_boxes(masks: np.ndarray) -> np.ndarray:
    """The least boxes around masks, R x H x W bool, none empty: R x 4."""
    height, width = masks.shape[1:]
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    first = columns.argmax(1), rows.argmax(1)
    last = width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)
    return np.stack([*first, *last], axis=1).astype(float)
