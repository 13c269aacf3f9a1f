"""Other systems' result files as saved masks: COCO panoptic results (json and PNGs) and instance results (RLE).

Such a file names one class a mask and says nothing of the others. That class gets the probability `confidence`, the
others share the rest, and void has none; a score becomes the mask's mask_iou.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from pycocotools import mask as coco_mask
from torch import Tensor
from tqdm import tqdm

from clipself_d2.data import get_dataset
from clipself_d2.data.annotations import entries, read_json
from clipself_d2.data.labels import read_panoptic_png
from clipself_d2.errors import InputError
from clipself_d2.panoptic.saved import save_predictions
from clipself_d2.vocabulary import check_vocabulary


@dataclass
class ResultImages:
    """What result files refer to by number.

    Attributes:
        images: by ``image_id`` the photograph's ``file_name``, ``height`` and ``width``.
        numbers: by ``category_id`` the number of a class.
        classes: the synonyms of each class.
    """

    images: Mapping[Any, Mapping[str, Any]]
    numbers: Mapping[int, int]
    classes: Sequence[Sequence[str]]

    @classmethod
    def of_dataset(cls, name: str) -> ResultImages:
        """Those of a registered panoptic data set.

        Raises:
            InputError: if the data set is unknown, or has no classes of things and stuff.
        """
        records = get_dataset(name)
        metadata = MetadataCatalog.get(name).as_dict()
        ids = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
        if any(key not in metadata for key in (*ids, "stuff_classes")):
            raise InputError(f"data set {name!r} is no panoptic data set: use another, or its json of annotations")
        classes = metadata.get("class_synonyms") or [[n] for n in metadata["stuff_classes"]]
        numbers = {id_: number for key in ids for id_, number in metadata[key].items()}
        return cls({record["image_id"]: record for record in records}, numbers, classes)

    @classmethod
    def of_annotations(cls, json_file: str | Path) -> ResultImages:
        """Those of a COCO json, whose ``images`` have ``height`` and ``width``, and its ``categories``' names.

        Raises:
            InputError: if something is missing.
        """
        content = read_json(json_file)
        images = entries(json_file, content, "images", ("id", "file_name", "height", "width"))
        categories = sorted(entries(json_file, content, "categories", ("id", "name")), key=lambda c: c["id"])
        names = check_vocabulary([category["name"] for category in categories])
        numbers = {category["id"]: number for number, category in enumerate(categories)}
        return cls({image["id"]: image for image in images}, numbers, names)


@dataclass
class _Found:
    """The masks of one image: category ids, R x H x W bool, and scores or None where none is told."""

    categories: list[int]
    masks: Tensor
    scores: list[float] | None


def save_panoptic_results(
    json_file: str | Path, png_root: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Saves the masks of a panoptic result.

    Args:
        json_file: with ``annotations``: ``image_id``, the PNG's ``file_name`` and ``segments_info`` (``id``,
            ``category_id`` and, where there is one, ``score``).
        png_root: the folder of its PNGs.
        folder: where the files go; see `save_predictions`.
        known: the photographs and classes; each photograph without a result gets a file without masks.
        confidence: see the module.

    Returns:
        The number of photographs with a result.

    Raises:
        InputError: a missing file; an image, a category or a segment that is not known.
    """
    annotations = entries(json_file, read_json(json_file), "annotations", ("image_id", "file_name", "segments_info"))

    def found() -> Iterable[tuple[Any, _Found]]:
        for annotation in annotations:
            path = Path(png_root) / annotation["file_name"]
            ids, segments = read_panoptic_png(str(path)), annotation["segments_info"]
            masks = ids == torch.tensor([s["id"] for s in segments], dtype=torch.long)[:, None, None]
            for segment, there in zip(segments, masks.flatten(1).any(dim=1).tolist(), strict=True):
                if not there:
                    raise InputError(f"{path}: lacks segment {segment['id']} of the json: use the PNGs of this result")
            scored = bool(segments) and all("score" in s for s in segments)
            scores = [s["score"] for s in segments] if scored else None
            yield annotation["image_id"], _Found([s["category_id"] for s in segments], masks, scores)

    return _save(json_file, folder, known, found(), len(annotations), confidence)


def save_instance_results(
    json_file: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Saves the masks of an instance-segmentation result: a list of ``image_id``, ``category_id``, ``score`` and a
    ``segmentation`` as RLE. See `save_panoptic_results` for the rest.

    Raises:
        InputError: a missing file, an entry that is incomplete, an image or a category that is not known.
    """
    try:
        content = {"results": json.loads(Path(json_file).read_text())}
    except (OSError, ValueError) as error:
        raise InputError(f"{json_file}: cannot be read as json ({error}): give an instance result") from error
    results = entries(json_file, content, "results", ("image_id", "category_id", "score", "segmentation"))
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        if not isinstance(result["segmentation"], dict):
            raise InputError(f"{json_file}: image {result['image_id']} has a mask that is no RLE: write RLE masks")
        by_image[result["image_id"]].append(result)

    def found() -> Iterable[tuple[Any, _Found]]:
        for image_id, instances in by_image.items():
            try:
                pixels = coco_mask.decode([_packed(i["segmentation"]) for i in instances])
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{json_file}: image {image_id} has a mask that is no RLE ({error})") from error
            masks = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).bool()
            yield image_id, _Found([i["category_id"] for i in instances], masks, [i["score"] for i in instances])

    return _save(json_file, folder, known, found(), len(by_image), confidence)


def _packed(rle: Mapping[str, Any]) -> Mapping[str, Any]:
    """An RLE whose counts are compressed, as pycocotools wants them."""
    if isinstance(rle["counts"], list):
        packed: Mapping[str, Any] = coco_mask.frPyObjects(rle, *rle["size"])
        return packed
    return rle


def _save(
    json_file: str | Path,
    folder: str | Path,
    known: ResultImages,
    results: Iterable[tuple[Any, _Found]],
    count: int,
    confidence: float,
) -> int:
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: must be between 0 and 1, so that CLIP can change a class")
    classes = [tuple(synonyms) for synonyms in known.classes]
    without = dict(known.images)
    for image_id, found in tqdm(results, "saving masks", total=count, unit=" images"):
        image = known.images.get(image_id)
        if image is None:
            raise InputError(f"{json_file}: image {image_id!r} is not in the data set: name that of this result")
        without.pop(image_id, None)
        if unknown := [c for c in found.categories if c not in known.numbers]:
            raise InputError(
                f"{json_file}: image {image_id!r} has a mask of category {unknown[0]}, which the data set lacks"
            )
        height, width = image["height"], image["width"]
        if len(found.masks) and found.masks.shape[-2:] != (height, width):
            rows, columns = found.masks.shape[-2:]
            raise InputError(
                f"{json_file}: image {image_id!r} has masks of {columns} x {rows} pixels, its photograph {width} x "
                f"{height}: name the data set of this result"
            )
        labels = torch.tensor([known.numbers[c] for c in found.categories], dtype=torch.long)
        mask_iou = None if found.scores is None else torch.tensor(found.scores).clamp(0, 1)
        log_scores = _log_scores(labels, len(classes), confidence)
        save_predictions(folder, image["file_name"], found.masks, log_scores, classes, height, width, mask_iou=mask_iou)
    for image in without.values():
        height, width = image["height"], image["width"]
        nothing = torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0, len(classes) + 1)
        save_predictions(folder, image["file_name"], *nothing, classes, height, width)
    return count


def _log_scores(labels: Tensor, num_classes: int, confidence: float) -> Tensor:
    scores = torch.full((len(labels), num_classes + 1), (1 - confidence) / max(1, num_classes - 1))
    scores.scatter_(1, labels[:, None], confidence if num_classes > 1 else 1.0)
    scores[:, -1] = 0
    return scores.log()
