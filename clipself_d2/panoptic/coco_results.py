"""Result files of other systems as saved masks: COCO's panoptic results (json and PNGs) and instance results (RLE).

Such a file names one class per mask. That class gets the probability `confidence`, the others share the rest, and void
has none. A score becomes the mask's `mask_iou`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from msgspec import Struct
from pycocotools import mask as coco_mask
from torch import Tensor

from clipself_d2 import schema
from clipself_d2.data import ImageError, get_dataset
from clipself_d2.data.labels import read_panoptic_png
from clipself_d2.data.masks import check_segmentation
from clipself_d2.data.walk import Walk
from clipself_d2.errors import InputError
from clipself_d2.panoptic.standalone.clipself_masks import save_predictions
from clipself_d2.vocabulary import check_vocabulary

_IMAGE = ("file_name", "height", "width")
# The masks of one image: category ids, R x H x W bool, and the scores if there are any.
_Masks = tuple[list[int], Tensor, list[float] | None]


class _Listed(schema.ImageList):
    categories: list[schema.Category]


class _Segment(schema.Segment):
    score: float | None = None


class _Segments(Struct):
    image_id: schema.Id
    file_name: str
    segments_info: list[_Segment]


class _PanopticResult(Struct):
    annotations: list[_Segments]


class _Instance(Struct):
    image_id: schema.Id
    category_id: int
    score: float
    segmentation: schema.RunLength


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
        content = schema.read_json(json_file, _Listed)
        images = schema.index_by_id(content.images, "image", json_file)
        if lacking := [i for i, image in images.items() if not (image.file_name and image.height and image.width)]:
            raise InputError(f"{json_file}: image {lacking[0]!r} lacks 'file_name', 'height' or 'width': add them")
        categories = schema.index_categories(content.categories, json_file)
        names = check_vocabulary([category.name for category in categories.values()])
        class_ids = {category_id: class_id for class_id, category_id in enumerate(categories)}
        sizes = {i: {"file_name": x.file_name, "height": x.height, "width": x.width} for i, x in images.items()}
        return cls(sizes, class_ids, names)


def save_panoptic_results(
    json_file: str | Path, png_root: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Save the masks of a panoptic result; on several ranks, each saves those of its images.

    Args:
        json_file: with `annotations`: `image_id`, the PNG's `file_name` and `segments_info` (`id`, `category_id` and
            optionally `score`).
        png_root: the folder of its PNGs.
        folder: where the files go, see `save_predictions`. What is done is noted in `FOLDER.parts` until all are
            written: a stopped call goes on there.
        known: the images and classes; an image without a result gets a file without masks.
        confidence: probability of a mask's class.

    Returns:
        The number of images with a result.

    Raises:
        InputError: a missing file, or an unknown image, category or segment.
    """
    by_image: dict[Any, _Segments] = {}
    for annotation in schema.read_json(json_file, _PanopticResult).annotations:
        if by_image.setdefault(annotation.image_id, annotation) is not annotation:
            raise InputError(f"{json_file}: image id {annotation.image_id!r} is given twice: remove one")
    return _save(json_file, folder, known, by_image, lambda x, _: _read_panoptic(x, Path(png_root)), confidence)


def save_instance_results(
    json_file: str | Path, folder: str | Path, known: ResultImages, confidence: float = 0.9
) -> int:
    """Save the masks of an instance segmentation result: a list of `image_id`, `category_id`, `score`, `segmentation`.

    `segmentation` is an RLE. See `save_panoptic_results` for the arguments.

    Raises:
        InputError: a missing file, an incomplete entry, or an unknown image or category.
    """
    by_image: dict[Any, list[_Instance]] = defaultdict(list)
    for instance in schema.read_json(json_file, list[_Instance]):
        by_image[instance.image_id].append(instance)
    return _save(json_file, folder, known, by_image, lambda x, image: _read_instances(x, image, json_file), confidence)


def _save(
    json_file: str | Path,
    folder: str | Path,
    known: ResultImages,
    by_image: Mapping[Any, Any],
    read: Callable[[Any, Mapping[str, Any]], _Masks],
    confidence: float,
) -> int:
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: must be between 0 and 1, for CLIP to change a class")
    if unknown_images := by_image.keys() - known.images.keys():
        raise InputError(
            f"{json_file}: image {unknown_images.pop()!r} is not in the data set: name that of this result"
        )
    stems = Counter(Path(image["file_name"]).stem for image in known.images.values())
    if repeated := [stem for stem, images in stems.items() if images > 1]:
        raise InputError(f"{repeated[0]}: {stems[repeated[0]]} images of this name: masks are saved by it; rename them")
    classes = [tuple(synonyms) for synonyms in known.classes]

    def predictions(record: dict[str, Any]) -> dict[str, Any]:
        image_id, height, width = record["image_id"], record["height"], record["width"]
        nothing: _Masks = ([], torch.zeros(0, height, width, dtype=torch.bool), None)
        categories, masks, scores = read(by_image[image_id], record) if image_id in by_image else nothing
        where = f"{json_file}: image {image_id!r}"
        if unknown := [c for c in categories if c not in known.class_ids]:
            raise InputError(f"{where} has a mask of category {unknown[0]}, which the data set lacks")
        if len(masks) and masks.shape[1:] != (height, width):
            raise InputError(
                f"{where} has masks of {masks.shape[2]} x {masks.shape[1]} pixels, the image is {width} x {height}: "
                "name the data set of this result"
            )
        class_ids = torch.tensor([known.class_ids[c] for c in categories], dtype=torch.long)
        mask_iou = None if scores is None else torch.tensor(scores).clamp(0, 1)
        return {**record, "masks": masks, "class_ids": class_ids, "mask_iou": mask_iou}

    def save(samples: Sequence[Mapping[str, Any]]) -> list[int]:
        for x in samples:
            scores = _log_scores(x["class_ids"], len(classes), confidence)
            place = folder, x["file_name"], x["masks"], scores, classes, x["height"], x["width"]
            save_predictions(*place, mask_iou=x["mask_iou"])
        return [len(x["masks"]) for x in samples]

    records = [{"image_id": key, **{k: x[k] for k in _IMAGE}} for key, x in known.images.items()]
    about = {"result": sha256(Path(json_file).read_bytes()).hexdigest(), "confidence": confidence, "classes": classes}
    walk = Walk(Path(folder), records, about, batch_size=1)
    walk.run(predictions, save, 0)
    if comm.is_main_process():
        walk.remove()
    return len(by_image)


def _read_panoptic(annotation: _Segments, png_root: Path) -> _Masks:
    path, segments = png_root / annotation.file_name, annotation.segments_info
    ids = torch.tensor([segment.id for segment in segments], dtype=torch.long)
    try:
        masks = read_panoptic_png(path) == ids[:, None, None]
    except ImageError as error:
        raise InputError(str(error)) from error  # a result that lacks an image is none
    for segment, is_there in zip(segments, masks.flatten(1).any(dim=1).tolist(), strict=True):
        if not is_there:
            raise InputError(f"{path}: lacks segment {segment.id} of the json: use the PNGs of this result")
    scores = [segment.score for segment in segments if segment.score is not None]
    return [s.category_id for s in segments], masks, scores if segments and len(scores) == len(segments) else None


def _read_instances(instances: Sequence[_Instance], image: Mapping[str, Any], json_file: str | Path) -> _Masks:
    size = image["height"], image["width"]
    try:
        pixels = coco_mask.decode([check_segmentation(i.segmentation, *size) for i in instances])
    except ValueError as error:
        raise InputError(f"{json_file}: a mask of image {instances[0].image_id!r} {error}: fix it") from error
    masks = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).bool()
    return [i.category_id for i in instances], masks, [i.score for i in instances]


def _log_scores(class_ids: Tensor, num_classes: int, confidence: float) -> Tensor:
    scores = torch.full((len(class_ids), num_classes + 1), (1 - confidence) / max(1, num_classes - 1))
    scores.scatter_(1, class_ids[:, None], confidence if num_classes > 1 else 1.0)
    scores[:, -1] = 0
    return scores.log()
