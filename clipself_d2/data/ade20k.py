"""ADE20K from the official downloads to the files that evaluations read.

*Scene Parsing* (ADEChallengeData2016): 150 classes, of which 100 are things. Its label PNGs count from 1, 0 is
unlabelled. Its instance release (annotations_instance) has the thing's number 1..100 in red and the instance in green.

*Full ADE20K* (2021_17_01): every image lies beside ``*_seg.png``, whose red and green hold the class:
``red // 10 * 256 + green`` is the ``name_ndx`` of the data set's index, 0 is unlabelled.

The files that are written have the names and the values that Detectron2, MaskFormer and their descendants use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from clipself_d2.data.image import read_image
from clipself_d2.data.labels import read_semantic_labels
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import class_names, label_set

SPLITS = {"train": "training", "val": "validation"}
"""Our name of a split and that of its folder."""

STUFF = frozenset(
    (0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77, 79)
    + (84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145)
)
"""Which of the 150 classes are stuff; the others are the 100 things, in the order of the instance release."""

THINGS = tuple(i for i in range(150) if i not in STUFF)

FULL_SHORT_SIDE = 512
"""Images of the full data set are evaluated with a short side of at most so many pixels."""

FULL_IGNORE_LABEL = 65535


def ade20k_categories() -> list[dict[str, Any]]:
    """The 150 classes in COCO's terms: ``id`` (from 0), ``name`` and ``isthing``."""
    names = class_names(label_set("ade20k_150"))
    return [{"id": i, "name": name, "isthing": int(i not in STUFF)} for i, name in enumerate(names)]


def semantic_labels(official: np.ndarray, source: str | Path) -> np.ndarray:
    """From the official labels 0 (none), 1..150 to 0..149 and 255, as uint8.

    Raises:
        InputError: if there are other labels.
    """
    if official.max(initial=0) > 150:
        raise InputError(f"{source}: has label {official.max()}, ADE20K's go to 150: give annotations of Scene Parsing")
    return (official - 1).astype(np.uint8)  # 0 wraps round to 255


def panoptic_labels(semantic: np.ndarray, instances: np.ndarray, source: str | Path) -> tuple[np.ndarray, list[dict]]:
    """The panoptic segments of an image: stuff from its semantic labels, with its instances in front.

    Pixels of a thing class without an instance remain unlabelled.

    Args:
        semantic: H x W, 0..149 or 255.
        instances: H x W x 2 uint8, the thing's number 1..100 and the instance, as in the instance release; 0 is none.
        source: the file's name, for messages.

    Returns:
        H x W segment ids from 1, 0 where unlabelled, and COCO's description of each segment, whose area and box are
        those that remain visible.

    Raises:
        InputError: if sizes differ or an instance has several classes, or an unknown one.
    """
    if semantic.shape != instances.shape[:2]:
        raise InputError(f"{source}: is {instances.shape[1]} x {instances.shape[0]} pixels, not as its semantic labels")
    stuff = np.isin(semantic, list(STUFF))
    # One code a segment: stuff 1..150, instances beyond.
    codes = np.where(stuff, semantic.astype(np.int64) + 1, 0)
    codes = np.where(instances[..., 1] > 0, 1000 + 256 * instances[..., 0].astype(np.int64) + instances[..., 1], codes)
    found, ids = np.unique(codes, return_inverse=True)
    ids = ids.reshape(codes.shape) + int(found[0] != 0)
    found = found[found != 0]
    numbers, instance_ids = np.divmod(found[found >= 1000] - 1000, 256)
    if len(set(instance_ids.tolist())) < len(instance_ids):
        raise InputError(f"{source}: one instance has several classes: download annotations_instance anew")
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(THINGS):
        raise InputError(f"{source}: has an instance of a class outside 1..100: give ADE20K's instance release")
    segments = []
    for segment_id, code in enumerate(found.tolist(), 1):
        category = code - 1 if code < 1000 else THINGS[(code - 1000) // 256 - 1]
        rle = coco_mask.encode(np.asfortranarray(ids == segment_id, dtype=np.uint8))
        segments.append({"id": segment_id, "category_id": category, **_extent(rle), "iscrowd": 0})
    return ids, segments


def instance_annotations(ids: np.ndarray, segments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The things among panoptic segments as COCO's instances, without ids of image and annotation."""
    annotations = []
    for segment in segments:
        if segment["category_id"] not in STUFF:
            rle = coco_mask.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
            common = {"category_id": segment["category_id"], "iscrowd": 0, **_extent(rle)}
            annotations.append({**common, "segmentation": {**rle, "counts": rle["counts"].decode()}})
    return annotations


def full_labels(segmentation: np.ndarray, source: str | Path) -> np.ndarray:
    """The 847 classes of a full annotation: H x W x 3 uint8 (``*_seg.png``) to H x W uint16, 65535 for the others.

    Raises:
        InputError: if it is no RGB image.
    """
    if segmentation.ndim != 3 or segmentation.shape[2] < 3:
        raise InputError(f"{source}: is no RGB image: give the *_seg.png of the full ADE20K")
    name_ndx = segmentation[..., 0].astype(np.int64) // 10 * 256 + segmentation[..., 1]
    classes = np.full(26 * 256, FULL_IGNORE_LABEL, dtype=np.uint16)
    index = json.loads((Path(__file__).parents[1] / "vocabulary/label_sets/ade20k_847_index.json").read_text())
    classes[index] = np.arange(len(index), dtype=np.uint16)
    return classes[name_ndx]


def prepare_scene_parsing(folder: str | Path, split: str) -> int:
    """Writes semantic labels, and panoptic segments and instances where the instance release is there.

    Reads ``images``, ``annotations`` and ``annotations_instance`` below ``folder`` (ADEChallengeData2016), writes
    ``annotations_detectron2``, ``ade20k_panoptic_SPLIT`` (PNGs and json) and ``ade20k_instance_SPLIT.json`` there.

    Returns:
        How many images there were.

    Raises:
        InputError: if files are missing or do not fit.
    """
    root, part = Path(folder), SPLITS[split]
    has_instances = (root / "annotations_instance").is_dir()
    semantic_root, panoptic_root = root / "annotations_detectron2" / part, root / f"ade20k_panoptic_{split}"
    semantic_root.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for photograph in tqdm(_files(root / "images" / part, "*.jpg"), f"ADE20K {split}", unit="image", delay=1):
        label_file = root / "annotations" / part / f"{photograph.stem}.png"
        semantic = semantic_labels(read_semantic_labels(label_file).numpy(), label_file)
        Image.fromarray(semantic).save(semantic_root / label_file.name)
        image_id = int(photograph.stem.split("_")[-1])
        height, width = semantic.shape
        images.append({"id": image_id, "file_name": photograph.name, "height": height, "width": width})
        if has_instances:
            instance_file = root / "annotations_instance" / part / label_file.name
            pixels = read_image(instance_file).numpy().transpose(1, 2, 0)
            ids, segments = panoptic_labels(semantic, pixels[..., :2], instance_file)
            panoptic_root.mkdir(exist_ok=True)
            Image.fromarray(_id_colours(ids)).save(panoptic_root / label_file.name)
            panoptic.append({"image_id": image_id, "file_name": label_file.name, "segments_info": segments})
            for annotation in instance_annotations(ids, segments):
                instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})
    if has_instances:
        categories = ade20k_categories()
        things = [c for c in categories if c["isthing"]]
        for kind, annotations, classes in (("panoptic", panoptic, categories), ("instance", instances, things)):
            content = {"images": images, "annotations": annotations, "categories": classes}
            (root / f"ade20k_{kind}_{split}.json").write_text(json.dumps(content))
    return len(images)


def prepare_full(folder: str | Path, split: str) -> int:
    """Writes photographs and labels of the 847 classes for evaluation, their short side at most 512 pixels.

    Reads ``images/ADE/{training,validation}`` below ``folder`` (ADE20K_2021_17_01), writes ``images_detectron2`` and
    ``annotations_detectron2`` (16-bit TIFF) there. As in published evaluations, photographs are resized bilinearly
    without antialiasing and labels to the nearest.

    Returns:
        How many images there were.

    Raises:
        InputError: if files are missing or do not fit.
    """
    root, part = Path(folder), SPLITS[split]
    photographs = _files(root / "images/ADE" / part, "**/*.jpg")
    for kind in ("images", "annotations"):
        (root / f"{kind}_detectron2" / part).mkdir(parents=True, exist_ok=True)
    for photograph in tqdm(photographs, f"full ADE20K {split}", unit="image", delay=1):
        label_file = photograph.with_name(f"{photograph.stem}_seg.png")
        image, colours = read_image(photograph), read_image(label_file)
        if image.shape != colours.shape:
            raise InputError(f"{label_file}: is of another size than its photograph: download both anew")
        labels = torch.from_numpy(full_labels(colours.permute(1, 2, 0).numpy(), label_file).astype(np.int32))
        height, width = image.shape[1:]
        if min(height, width) > FULL_SHORT_SIDE:
            scale = FULL_SHORT_SIDE / min(height, width)
            size = (round(height * scale), round(width * scale))
            image = F.interpolate(image[None].float(), size, mode="bilinear").round().byte()[0]
            labels = F.interpolate(labels[None, None].float(), size, mode="nearest").int()[0, 0]
        name = root / "images_detectron2" / part / photograph.name
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(name)
        tiff = root / "annotations_detectron2" / part / f"{photograph.stem}.tif"
        Image.fromarray(labels.numpy().astype(np.uint16)).save(tiff)
    return len(photographs)


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise InputError(f"{folder}: holds no photographs: download the data set as datasets/README.md says")
    return files


def _extent(rle: dict[str, Any]) -> dict[str, Any]:
    return {"area": int(coco_mask.area(rle)), "bbox": [float(v) for v in coco_mask.toBbox(rle)]}


def _id_colours(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
