"""Labelled objects as arrays: the ground truth of a registered data set, and the detections to judge by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask
from torch import Tensor

from clipself_d2.data import get_dataset
from clipself_d2.data.catalog import metadata_of
from clipself_d2.errors import InputError


@dataclass(frozen=True)
class Objects:
    """N boxes of a data set, annotated or detected; a row each."""

    images: np.ndarray
    """N int64: indices of the data set's records."""
    classes: np.ndarray
    """N int64: indices of its classes."""
    boxes: np.ndarray
    """N x 4 float64: x, y, width, height in pixels, as COCO's."""
    areas: np.ndarray
    """N float64: pixels of the object, by which it is small, medium or large."""
    scores: np.ndarray
    """N float64; of ground truth 1."""
    crowd: np.ndarray
    """N bool: regions of several objects, in which detections are neither right nor wrong."""
    masks: np.ndarray | None = None
    """N objects: polygons or run-length encodings, as COCO's; None in a table without masks."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> Objects:
        """Some rows: indices or a mask."""
        columns = {name: column[rows] for name, column in vars(self).items() if column is not None}
        return Objects(**columns)

    def by_class(self, num_classes: int) -> list[Objects]:
        """The rows of each class, in their order."""
        order = np.argsort(self.classes, kind="stable")
        return [self[rows] for rows in np.split(order, np.searchsorted(self.classes[order], np.arange(1, num_classes)))]

    def with_mask_areas(self) -> Objects:
        """The same with the pixels of the (run-length encoded) masks for areas."""
        assert self.masks is not None
        # One by one: with NumPy 2 pycocotools 2.0.11 overflows on a list of more than 255.
        return replace(self, areas=np.array([coco_mask.area(mask) for mask in self.masks], dtype=np.float64))

    def to_coco(self, *, masks: bool = False) -> list[dict[str, Any]]:
        """COCO annotations, or results, of category 1 with ids from 1; `segmentation` on request."""
        columns = [self.images.tolist(), self.boxes.tolist(), self.areas.tolist(), self.scores.tolist()]
        names = ("image_id", "bbox", "area", "score", "iscrowd", "ignore")  # lvis asks for the last
        columns += [self.crowd.astype(int).tolist()] * 2
        annotations = [
            {"id": i, "category_id": 1, **dict(zip(names, row, strict=True))}
            for i, row in enumerate(zip(*columns, strict=True), 1)
        ]
        if masks:
            assert self.masks is not None
            for annotation, mask in zip(annotations, self.masks, strict=True):
                annotation["segmentation"] = mask
        return annotations


@dataclass(frozen=True)
class GroundTruth:
    """What a data set says."""

    names: list[str]
    """Its K classes."""
    images: list[dict[str, Any]]
    """Its records without their annotations."""
    objects: Objects

    @property
    def counts(self) -> np.ndarray:
        """K int64: objects of each class, crowds left out."""
        return np.bincount(self.objects.classes[~self.objects.crowd], minlength=len(self.names))

    @classmethod
    def load(cls, dataset_name: str) -> GroundTruth:
        """Reads a data set from Detectron2's catalog.

        An object's area is its annotation's `area` if there is one, else that of its polygons or mask, else its box's.

        Raises:
            InputError: if it is not registered, has no classes, no annotations, or one of a class that it has not.
        """
        records = get_dataset(dataset_name)
        names = class_names(dataset_name)
        annotations = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
        objects = Objects(
            images=np.array([i for i, _ in annotations], dtype=np.int64),
            classes=np.array([a["category_id"] for _, a in annotations], dtype=np.int64),
            boxes=_boxes([a for _, a in annotations]),
            areas=np.array([_area(a) for _, a in annotations], dtype=np.float64),
            scores=np.ones(len(annotations)),
            crowd=np.array([a.get("iscrowd", 0) for _, a in annotations], dtype=bool),
            masks=_masks([a for _, a in annotations]),
        )
        if not (~objects.crowd).any():
            raise InputError(f"data set {dataset_name!r} has no annotations to evaluate with: check its json file")
        if wrong := set(objects.classes.tolist()) - set(range(len(names))):
            raise InputError(
                f"data set {dataset_name!r} has annotations of class {min(wrong)}, but only {len(names)} classes: its "
                "thing_classes are those of another file"
            )
        images = [{k: v for k, v in record.items() if k != "annotations"} for record in records]
        return cls(names, images, objects)


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's run-length encodings of R x H x W masks."""
    # pycocotools wants H x W x R with H running fastest: the transpose of R x W x H, without a copy.
    columns = masks.transpose(1, 2).to(torch.uint8).contiguous().cpu().numpy().T
    encoded: list[dict[str, Any]] = coco_mask.encode(columns)
    return encoded


def json_mask(mask: Tensor) -> dict[str, Any]:
    """COCO's run-length encoding of an H x W mask, as a json takes it."""
    [rle] = run_lengths(mask[None])
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}


def metadata(dataset_name: str) -> Metadata:
    """The metadata of a data set, which may tell its classes only when it is loaded.

    Raises:
        InputError: if it has no `thing_classes`.
    """
    metadata = metadata_of(dataset_name, "thing_classes")
    if "thing_classes" not in metadata.as_dict():
        raise InputError(f"data set {dataset_name!r} has no thing_classes in its metadata: set them where it registers")
    return metadata


def class_names(dataset_name: str) -> list[str]:
    """The classes of a data set, by whose index its annotations and detections name them."""
    return list(metadata(dataset_name).thing_classes)


def novel_classes(dataset_name: str) -> np.ndarray | None:
    """K bool, which classes are novel by the metadata's `novel_classes`; None where it has none.

    Raises:
        InputError: if one of them is no class of the data set.
    """
    names, novel = class_names(dataset_name), metadata(dataset_name).get("novel_classes")
    if novel is None:
        return None
    if unknown := set(novel) - set(names):
        raise InputError(f"data set {dataset_name!r}: novel class {min(unknown)!r} is not among its thing_classes")
    return np.isin(names, novel)


def _boxes(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([int(a["bbox_mode"]) for a in annotations], dtype=np.int64)
    for mode in np.unique(modes):
        boxes[modes == mode] = BoxMode.convert(boxes[modes == mode], BoxMode(int(mode)), BoxMode.XYWH_ABS)
    return boxes


def _area(annotation: Mapping[str, Any]) -> float:
    if "area" in annotation:
        return float(annotation["area"])
    segmentation = annotation.get("segmentation")
    if not segmentation:
        (box,) = _boxes([annotation])
        return float(box[2] * box[3])
    if isinstance(segmentation, dict):
        return float(coco_mask.area(segmentation))
    return sum(_polygon_area(np.asarray(polygon, dtype=np.float64).reshape(-1, 2)) for polygon in segmentation)


def _polygon_area(points: np.ndarray) -> float:
    """The shoelace formula, from which COCO's own areas come."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _masks(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """A column of masks, if all annotations have one."""
    if not all(a.get("segmentation") for a in annotations):
        return None
    column = np.empty(len(annotations), dtype=object)
    for i, annotation in enumerate(annotations):
        column[i] = annotation["segmentation"]
    return column
