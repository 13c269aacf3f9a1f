"""What a model found in one image: records of a COCO results file with class names, YOLO's labels, supervision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from pycocotools import mask as coco_mask
from torch import Tensor

from clipself_d2.errors import require

if TYPE_CHECKING:
    import supervision


def to_results(
    output: Mapping[str, Any], names: Sequence[str], is_base: Sequence[bool], image_id: int
) -> list[dict[str, Any]]:
    """Describe a model's output.

    Args:
        output: what Detectron2's models return for an image, on the CPU, with ``panoptic_seg`` or ``instances``.
        names: of the K classes.
        is_base: for each class whether the model was trained with labels of it.
        image_id: for the records.

    Returns:
        Records with ``image_id``, ``category_id`` (0..K-1), ``name``, ``is_base`` and ``score``. Instances, best first,
        also have ``bbox`` (x, y, width, height in pixels); segments, largest first, ``id``, ``isthing``, ``area`` in
        pixels and ``segmentation`` (run-length encoded).
    """
    if "panoptic_seg" in output:
        results = _segment_records(*output["panoptic_seg"])
    else:
        results = instances_to_coco_json(output["instances"], image_id)
        for result in results:
            result["bbox"] = [round(value, 2) for value in result["bbox"]]
        results.sort(key=lambda result: -result["score"])
    for result in results:
        k = result["category_id"]
        result.update(image_id=image_id, name=names[k], is_base=is_base[k], score=round(result["score"], 4))
    return results


def to_supervision(output: Mapping[str, Any], names: Sequence[str]) -> supervision.Detections:
    """Make the `supervision.Detections` of a model's output, for its annotators, trackers and zones.

    Args:
        output: see `to_results`.
        names: see `to_results`; they become ``data["class_name"]``.

    Raises:
        InputError: supervision is not installed.
    """
    require("supervision", "supervision", "to_supervision")
    import supervision

    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        masks = np.stack([ids.numpy() == s["id"] for s in segments]) if segments else np.zeros((0, *ids.shape), bool)
        boxes = supervision.mask_to_xyxy(masks)
        scores, classes = [s["score"] for s in segments], [s["category_id"] for s in segments]
    else:
        found = output["instances"]
        masks = np.asarray(found.pred_masks) if found.has("pred_masks") else None
        boxes, scores, classes = found.pred_boxes.tensor.numpy(), found.scores.tolist(), found.pred_classes.tolist()
    return supervision.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array(scores, dtype=np.float32),
        class_id=np.array(classes, dtype=int),
        data={"class_name": np.array([names[k] for k in classes], dtype=str)},
    )


def to_yolo(records: Sequence[Mapping[str, Any]], height: int, width: int) -> str:
    """Write records as YOLO's labels.

    Args:
        records: of `to_results`. A segment has the box of its mask.
        height: of the image, in pixels.
        width: likewise.

    Returns:
        A line per record: its category, then center and size of the box as fractions of the image's sides.
    """
    lines = []
    for record in records:
        x, y, w, h = record["bbox"] if "bbox" in record else coco_mask.toBbox(record["segmentation"]).tolist()
        sides = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        lines.append(" ".join([str(record["category_id"]), *(f"{side:.6f}" for side in sides)]))
    return "".join(f"{line}\n" for line in lines)


def _segment_records(ids: Tensor, segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    areas = ids.flatten().bincount()
    columns_first = np.asfortranarray(ids.numpy())
    records = []
    for segment in segments:  # one mask at a time
        rle = coco_mask.encode((columns_first == segment["id"]).view(np.uint8))
        encoded = {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}
        records.append({**segment, "area": int(areas[segment["id"]]), "segmentation": encoded})
    return sorted(records, key=lambda record: -record["area"])


def semantic_segments(
    labels: Tensor, scores: Tensor, threshold: float = 0.0, background: Tensor | None = None
) -> dict[str, Any]:
    """Turn a semantic segmentation into a panoptic one with one segment per class.

    Args:
        labels: H x W, the class of each pixel.
        scores: H x W, the score of that class.
        threshold: pixels with a lower score have no class.
        background: H x W bool, pixels without a class.

    Returns:
        ``panoptic_seg``: segment ids (H x W, 0 for no class) and segments, whose score is the mean of their pixels.
    """
    nothing = scores < threshold
    if background is not None:
        nothing |= background
    ids = (labels + 1).masked_fill(nothing, 0)
    counts = ids.flatten().bincount()
    means = (ids.flatten().bincount(weights=scores.flatten().double()) / counts).tolist()
    segments = [
        {"id": number, "category_id": number - 1, "isthing": False, "score": means[number]}
        for number in counts.nonzero().flatten().tolist()
        if number
    ]
    return {"panoptic_seg": (ids, segments)}
