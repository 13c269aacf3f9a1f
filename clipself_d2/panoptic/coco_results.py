"""Result files of other systems as saved masks: COCO's panoptic results (json and PNGs) and instance results (RLE).

Such a file names one class per mask. That class gets the probability `confidence`, the others share the rest, and void
has none. A score becomes the mask's `mask_iou`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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

# The masks of one image: category ids, R x H x W bool, and the scores if there are any.
_Masks = tuple[list[int], Tensor, list[float] | None]


@dataclass
class ResultImages:
    """What the ids of a result file stand for.

    Attributes:
        images: by `image_id` the image's `file_name`, `height` and `width`.
        class_ids: by `category_id` the number of the class, from 0.
        classes: the synonyms of each class.
    """

    images: Mapping[Any, Mapping[str, Any]]
    class_ids: Mapping[int, int]
    classes: Sequence[Sequence[str]]

    @classmethod
    def of_dataset(cls, name: str) -> ResultImages:
        """Read them from a registered panoptic data set.

        Raises:
            InputError: an unknown data set, or one without classes of things and stuff.
        """
        records = get_dataset(name)
        metadata = MetadataCatalog.get(name).as_dict()
        ids = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
        if any(key not in metadata for key in (*ids, "stuff_classes")):
            raise InputError(f"data set {name!r} is not a panoptic data set: use another, or its json of annotations")
        classes = metadata.get("class_synonyms") or [[n] for n in metadata["stuff_classes"]]
        class_ids = {category: class_id for key in ids for category, class_id in metadata[key].items()}
        return cls({record["image_id"]: record for record in records}, class_ids, classes)

    @classmethod
    def of_annotations(cls, json_file: str | Path) -> ResultImages:
        """Read them from a COCO json with `images` and `categories`.

        Raises:
            InputError: a missing file or field.
        """
        content = read_json(json_file)
        images = entries(json_file, content, "images", ("id", "file_name", "height", "width"))
        categories = sorted(entries(json_file, content, "categories", ("id", "name")), key=lambda c: c["id"])
        names = check_vocabulary([category["name"] for category in categories])
        class_ids = {category["id"]: class_id for class_id, category in enumerate(categories)}
        return cls({image["id"]: image for image in images}, class_ids, names)


def save_panoptic_results(
    json_file: str | Path, png_root: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Save the masks of a panoptic result.

    Args:
        json_file: with `annotations`: `image_id`, the PNG's `file_name` and `segments_info` (`id`, `category_id` and
            optionally `score`).
        png_root: the folder of its PNGs.
        folder: where the files go, see `save_predictions`.
        known: the images and classes; an image without a result gets a file without masks.
        confidence: probability of a mask's class.

    Returns:
        The number of images with a result.

    Raises:
        InputError: a missing file, or an unknown image, category or segment.
    """
    annotations = entries(json_file, read_json(json_file), "annotations", ("image_id", "file_name", "segments_info"))
    by_image = {annotation["image_id"]: annotation for annotation in annotations}
    return _save(json_file, folder, known, by_image, lambda entry: _read_panoptic(entry, Path(png_root)), confidence)


def save_instance_results(
    json_file: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Save the masks of an instance segmentation result: a list of `image_id`, `category_id`, `score`, `segmentation`.

    `segmentation` is an RLE. See `save_panoptic_results` for the arguments.

    Raises:
        InputError: a missing file, an incomplete entry, or an unknown image or category.
    """
    try:
        content = {"results": json.loads(Path(json_file).read_text())}
    except (OSError, ValueError) as error:
        raise InputError(f"{json_file}: cannot be read as json ({error}): give an instance result") from error
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries(json_file, content, "results", ("image_id", "category_id", "score", "segmentation")):
        by_image[entry["image_id"]].append(entry)
    return _save(json_file, folder, known, by_image, lambda entry: _read_instances(entry, json_file), confidence)


def _save(
    json_file: str | Path,
    folder: str | Path,
    known: ResultImages,
    by_image: Mapping[Any, Any],
    read: Callable[[Any], _Masks],
    confidence: float,
) -> int:
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: must be between 0 and 1, for CLIP to change a class")
    if unknown_images := by_image.keys() - known.images.keys():
        raise InputError(
            f"{json_file}: image {unknown_images.pop()!r} is not in the data set: name that of this result"
        )
    classes = [tuple(synonyms) for synonyms in known.classes]
    for image_id, image in tqdm(known.images.items(), "saving masks", unit=" images"):
        height, width = image["height"], image["width"]
        nothing: _Masks = ([], torch.zeros(0, height, width, dtype=torch.bool), None)
        categories, masks, scores = read(by_image[image_id]) if image_id in by_image else nothing
        where = f"{json_file}: image {image_id!r}"
        if unknown := [c for c in categories if c not in known.class_ids]:
            raise InputError(f"{where} has a mask of category {unknown[0]}, which the data set lacks")
        if len(masks) and masks.shape[1:] != (height, width):
            raise InputError(
                f"{where} has masks of {masks.shape[2]} x {masks.shape[1]} pixels, the image is {width} x {height}: "
                "name the data set of this result"
            )
        class_ids = torch.tensor([known.class_ids[c] for c in categories], dtype=torch.long)
        log_scores = _log_scores(class_ids, len(classes), confidence)
        mask_iou = None if scores is None else torch.tensor(scores).clamp(0, 1)
        save_predictions(folder, image["file_name"], masks, log_scores, classes, height, width, mask_iou=mask_iou)
    return len(by_image)


def _read_panoptic(annotation: Mapping[str, Any], png_root: Path) -> _Masks:
    path, segments = png_root / annotation["file_name"], annotation["segments_info"]
    ids = torch.tensor([s["id"] for s in segments], dtype=torch.long)
    masks = read_panoptic_png(str(path)) == ids[:, None, None]
    for segment, is_there in zip(segments, masks.flatten(1).any(dim=1).tolist(), strict=True):
        if not is_there:
            raise InputError(f"{path}: lacks segment {segment['id']} of the json: use the PNGs of this result")
    has_scores = bool(segments) and all("score" in s for s in segments)
    return [s["category_id"] for s in segments], masks, [s["score"] for s in segments] if has_scores else None


def _read_instances(instances: Sequence[Mapping[str, Any]], json_file: str | Path) -> _Masks:
    try:
        pixels = coco_mask.decode([_compressed(i["segmentation"]) for i in instances])
    except (KeyError, TypeError, ValueError) as error:
        image_id = instances[0]["image_id"]
        raise InputError(f"{json_file}: image {image_id} has a mask that is no RLE ({error}): write RLEs") from error
    masks = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).bool()
    return [i["category_id"] for i in instances], masks, [i["score"] for i in instances]


def _compressed(rle: Any) -> Any:
    """Compress the counts of an RLE, as `coco_mask.decode` needs them."""
    return coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle


def _log_scores(class_ids: Tensor, num_classes: int, confidence: float) -> Tensor:
    scores = torch.full((len(class_ids), num_classes + 1), (1 - confidence) / max(1, num_classes - 1))
    scores.scatter_(1, class_ids[:, None], confidence if num_classes > 1 else 1.0)
    scores[:, -1] = 0
    return scores.log()
