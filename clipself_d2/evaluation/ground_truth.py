"""The ground truth of a registered data set in COCO's format, in memory.

Detectron2's evaluators read the json file that the metadata names. Pascal VOC and OV-Shapes have no such file, and the
categories of other files are not numbered as the classes are. Here the ground truth comes from the records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygon_area
from pycocotools import mask as coco_mask

from clipself_d2.data import get_dataset
from clipself_d2.data.catalog import metadata_of
from clipself_d2.errors import InputError

if TYPE_CHECKING:
    from faster_coco_eval import COCO


@dataclass(frozen=True)
class GroundTruth:
    """What a data set says.

    Attributes:
        dataset_name: its registered name.
        classes: the names of its K classes.
        is_novel: K bool, the classes that the metadata's ``novel_classes`` name; all False without that key.
        image_index: the position of each record by its ``image_id``. It is the id of the image below, because
            COCO's rules sort images by id and ids of a data set may be text.
        images: the records without their annotations, with their position as ``id``.
        annotations: COCO's annotations. ``category_id`` is an index of the classes.
    """

    dataset_name: str
    classes: list[str]
    is_novel: np.ndarray
    image_index: dict[Any, int]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]

    @classmethod
    def load(cls, dataset_name: str) -> GroundTruth:
        """Read a data set from Detectron2's catalog.

        Raises:
            InputError: if it is not registered or has no classes; see `of_records` too.
        """
        records = get_dataset(dataset_name)
        known = metadata_of(dataset_name, "thing_classes")
        return cls.of_records(dataset_name, records, list(known.thing_classes), known.get("novel_classes", ()))

    @classmethod
    def of_records(
        cls, dataset_name: str, records: Sequence[dict[str, Any]], classes: list[str], novel: Collection[str] = ()
    ) -> GroundTruth:
        """Take Detectron2's dataset dicts.

        Raises:
            InputError: if there are no annotations, or an annotation or a novel class is not among the classes.
        """
        images = [
            {**{key: value for key, value in record.items() if key != "annotations"}, "id": i}
            for i, record in enumerate(records)
        ]
        pairs = [(i, a) for i, record in enumerate(records) for a in record.get("annotations", ())]
        annotations = [{"id": number, "image_id": i, **_coco_annotation(a)} for number, (i, a) in enumerate(pairs, 1)]
        if all(a["iscrowd"] for a in annotations):
            raise InputError(f"data set {dataset_name!r} has no annotations to evaluate with: check its json file")
        if wrong := {a["category_id"] for a in annotations} - set(range(len(classes))):
            raise InputError(
                f"data set {dataset_name!r} has annotations of class {min(wrong)}, but only {len(classes)} classes: "
                "its thing_classes are those of another file"
            )
        if unknown := set(novel) - set(classes):
            raise InputError(f"data set {dataset_name!r}: novel class {min(unknown)!r} is not among its thing_classes")
        return cls(
            dataset_name=dataset_name,
            classes=classes,
            is_novel=np.isin(classes, list(novel)),
            image_index={record["image_id"]: i for i, record in enumerate(records)},
            images=images,
            annotations=annotations,
        )

    @property
    def counts(self) -> np.ndarray:
        """K int64: objects of each class without crowds."""
        classes = [a["category_id"] for a in self.annotations if not a["iscrowd"]]
        return np.bincount(classes, minlength=len(self.classes))

    def coco(self, classes: Collection[int] | None = None) -> COCO:
        """Build an index of all annotations, or of those of some classes."""
        from faster_coco_eval import COCO  # of an extra, see `require_coco_eval`

        annotations = [a for a in self.annotations if classes is None or a["category_id"] in classes]
        categories = [{"id": k, "name": name} for k, name in enumerate(self.classes)]
        return COCO({"images": self.images, "annotations": annotations, "categories": categories})


def _coco_annotation(annotation: Mapping[str, Any]) -> dict[str, Any]:
    given = np.asarray(annotation["bbox"], dtype=np.float64)
    box = BoxMode.convert(given[None], BoxMode(annotation["bbox_mode"]), BoxMode.XYWH_ABS)[0].tolist()
    result = {
        "category_id": annotation["category_id"],
        "bbox": box,
        "area": _area(annotation, box),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if annotation.get("segmentation"):
        result["segmentation"] = annotation["segmentation"]
    return result


def _area(annotation: Mapping[str, Any], box: list[float]) -> float:
    """The annotation's own area, or else that of its polygons, its mask or its box."""
    if "area" in annotation:
        return float(annotation["area"])
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return float(box[2] * box[3])
    if isinstance(segmentation, dict):
        return float(coco_mask.area(segmentation))
    return float(sum(polygon_area(*np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T) for polygon in segmentation))
