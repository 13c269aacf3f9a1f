"""A model's detections as Detectron2's evaluators take them: checked, and each image once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.structures import Instances

from clipself_d2.errors import InputError
from clipself_d2.evaluation.ground_truth import GroundTruth


def checked_input(truth: GroundTruth, sample: Mapping[str, Any]) -> dict[str, int]:
    """Return what Detectron2's evaluators read of a sample: ``image_id``, here an id of the ground truth.

    Raises:
        InputError: if the image is not in the data set.
    """
    if sample["image_id"] not in truth.image_index:
        raise InputError(
            f"image {sample['image_id']} is not in data set {truth.dataset_name!r}: evaluate on the data set that is "
            "tested"
        )
    return {"image_id": truth.image_index[sample["image_id"]]}


def checked_instances(
    truth: GroundTruth, sample: Mapping[str, Any], output: Mapping[str, Any], *, masks: bool = False
) -> Instances:
    """Return the detections of an image whose boxes and scores are finite.

    Args:
        truth: the data set.
        sample: with ``image_id``, ``height`` and ``width``.
        output: Detectron2's ``instances`` in pixels of height x width.
        masks: whether masks are evaluated.

    Raises:
        InputError: if there are no ``instances`` or no masks, a detection is of a class that the data set does not
            have, or a mask is of another size than the image.
    """
    instances = output_field(output, "instances")
    classes, image = instances.pred_classes, sample["image_id"]
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(truth.classes):
        wrong = int(classes.min()) if int(classes.min()) < 0 else int(classes.max())
        raise InputError(
            f"image {image}: a detection is of class {wrong}, but data set {truth.dataset_name!r} has "
            f"{len(truth.classes)} classes: detect with the vocabulary of its thing_classes"
        )
    if masks and not instances.has("pred_masks"):
        raise InputError(f"data set {truth.dataset_name!r}: masks are evaluated, but the model gives none")
    if masks and instances.pred_masks.shape[-2:] != (sample["height"], sample["width"]):
        raise InputError(
            f"image {image}: its masks are {tuple(instances.pred_masks.shape[-2:])}, the image "
            f"{(sample['height'], sample['width'])}: paste them into the whole image"
        )
    fields = ("pred_boxes", "scores", "pred_classes", *(["pred_masks"] if masks else []))
    wanted = Instances(instances.image_size, **{name: instances.get(name) for name in fields})
    return wanted[torch.isfinite(wanted.pred_boxes.tensor).all(dim=1) & torch.isfinite(wanted.scores)]


def output_field(output: Mapping[str, Any], field: str) -> Instances:
    """Return a field of a model's output; an InputError says which fields there are."""
    if field not in output:
        raise InputError(f"the evaluator needs {field!r}, but the model gives {sorted(output)}")
    return output[field]


def each_image_once(predictions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop the predictions of images that came before, as samplers may repeat images."""
    once: dict[int, dict[str, Any]] = {}
    for prediction in predictions:
        once.setdefault(prediction["image_id"], prediction)
    return list(once.values())
