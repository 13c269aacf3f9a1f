"""Prepare ADE20K for panoptic, instance and semantic evaluation.

Converts what is there below the folder of data sets:
  ADEChallengeData2016/      Scene Parsing, 150 classes: semantic labels from `annotations`; panoptic segments and
                             instances too, where `annotations_instance` is
  ADE20K_2021_17_01/         the full data set: images and labels of 847 classes

The files have the names and values that Detectron2, MaskFormer and their descendants use.

Examples:
  python datasets/prepare_ade20k.py
  python datasets/prepare_ade20k.py --root /data --splits val
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError

SPLITS = {"train": "training", "val": "validation"}
"""Our name of a split and that of its folder."""

FULL_SHORT_SIDE = 512
"""Images of the full data set are evaluated with a short side of up to N pixels."""

FULL_IGNORE_LABEL = 65535


def semantic_labels(official: np.ndarray, source: str | Path) -> np.ndarray:
    """Convert the official labels 0 (none), 1..150 to 0..149 and 255, as uint8.

    Raises:
        InputError: if there are other labels.
    """
    if official.max(initial=0) > 150:
        raise InputError(f"{source}: has label {official.max()}, ADE20K's go to 150: give annotations of Scene Parsing")
    return (official - 1).astype(np.uint8)  # 0 wraps around to 255


def panoptic_labels(semantic: np.ndarray, instances: np.ndarray, source: str | Path) -> tuple[np.ndarray, list[dict]]:
    """Make the panoptic segments of an image: stuff from its semantic labels, with its instances in front.

    Pixels of a thing class without an instance remain unlabeled.

    Args:
        semantic: H x W, 0..149 or 255.
        instances: H x W x 2 uint8, the thing's number 1..100 and the instance, as red and green of the instance
            release; 0 is none.
        source: the file's name, for errors.

    Returns:
        H x W segment ids from 1, 0 where unlabeled, and COCO's description of each segment, whose area and box are
        those that remain visible.

    Raises:
        InputError: if sizes differ or an instance has several classes, or an unknown one.
    """
    from clipself_d2.data.classes import ADE20K_STUFF, ADE20K_THINGS

    if semantic.shape != instances.shape[:2]:
        raise InputError(f"{source}: is {instances.shape[1]} x {instances.shape[0]} pixels, not as its semantic labels")
    stuff = np.isin(semantic, ADE20K_STUFF)
    # One code per segment: stuff 1..150, instances beyond.
    codes = np.where(stuff, semantic.astype(np.int64) + 1, 0)
    codes = np.where(instances[..., 1] > 0, 1000 + 256 * instances[..., 0].astype(np.int64) + instances[..., 1], codes)
    found, ids = np.unique(codes, return_inverse=True)
    ids = ids.reshape(codes.shape) + int(found[0] != 0)
    found = found[found != 0]
    numbers, instance_ids = np.divmod(found[found >= 1000] - 1000, 256)
    if len(set(instance_ids.tolist())) < len(instance_ids):
        raise InputError(f"{source}: one instance has several classes: download annotations_instance again")
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(ADE20K_THINGS):
        raise InputError(f"{source}: has an instance of a class outside 1..100: give ADE20K's instance release")
    segments = []
    for segment_id, code in enumerate(found.tolist(), 1):
        category = code - 1 if code < 1000 else ADE20K_THINGS[(code - 1000) // 256 - 1]
        _, extent = _encode(ids == segment_id)
        segments.append({"id": segment_id, "category_id": category, **extent, "iscrowd": 0})
    return ids, segments


def instance_annotations(ids: np.ndarray, segments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert the things among panoptic segments to COCO's instances, without ids of image and annotation."""
    from clipself_d2.data.classes import ADE20K_THINGS

    annotations = []
    for segment in segments:
        if segment["category_id"] in ADE20K_THINGS:
            rle, extent = _encode(ids == segment["id"])
            annotations.append(
                {"category_id": segment["category_id"], "iscrowd": 0, **extent, "segmentation": rle},
            )
    return annotations


def full_labels(segmentation: np.ndarray, source: str | Path) -> np.ndarray:
    """Convert a full annotation to the 847 classes.

    Args:
        segmentation: H x W x 3 uint8, of ``*_seg.png``: ``red // 10 * 256 + green`` is the ``name_ndx`` of the data
            set's index, 0 is unlabeled.
        source: the file's name, for errors.

    Returns:
        H x W uint16, 65535 for other classes.

    Raises:
        InputError: if it is no RGB image.
    """
    if segmentation.ndim != 3 or segmentation.shape[2] < 3:
        raise InputError(f"{source}: is no RGB image: give the *_seg.png of the full ADE20K")
    name_ndx = segmentation[..., 0].astype(np.int64) // 10 * 256 + segmentation[..., 1]
    classes = np.full(26 * 256, FULL_IGNORE_LABEL, dtype=np.uint16)
    index = json.loads(Path(__file__).with_name("ade20k_847_index.json").read_text())
    classes[index] = np.arange(len(index), dtype=np.uint16)
    return classes[name_ndx]


def prepare_scene_parsing(root: Path, split: str) -> int:
    """Write semantic labels, and panoptic segments and instances where the instance release is there.

    Args:
        root: ADEChallengeData2016. ``images``, ``annotations`` and ``annotations_instance`` are read below it, and
            ``annotations_detectron2``, ``ade20k_panoptic_SPLIT`` (PNGs and json) and ``ade20k_instance_SPLIT.json``
            are written.
        split: one of `SPLITS`.

    Returns:
        The number of images.

    Raises:
        InputError: if files are missing or do not fit.
    """
    from clipself_d2.data.classes import ADE20K_CATEGORIES
    from clipself_d2.data.image import read_image
    from clipself_d2.data.labels import read_semantic_labels

    part = SPLITS[split]
    has_instances = (root / "annotations_instance").is_dir()
    semantic_root, panoptic_root = root / "annotations_detectron2" / part, root / f"ade20k_panoptic_{split}"
    semantic_root.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for file in tqdm(_files(root / "images" / part, "*.jpg"), f"ADE20K {split}", unit="image", delay=1):
        label_file = root / "annotations" / part / f"{file.stem}.png"
        semantic = semantic_labels(read_semantic_labels(label_file).numpy(), label_file)
        Image.fromarray(semantic).save(semantic_root / label_file.name)
        image_id = int(file.stem.split("_")[-1])
        height, width = semantic.shape
        images.append({"id": image_id, "file_name": file.name, "height": height, "width": width})
        if has_instances:
            instance_file = root / "annotations_instance" / part / label_file.name
            pixels = read_image(instance_file).numpy().transpose(1, 2, 0)
            ids, segments = panoptic_labels(semantic, pixels[..., :2], instance_file)
            panoptic_root.mkdir(exist_ok=True)
            colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(colors).save(panoptic_root / label_file.name)
            panoptic.append({"image_id": image_id, "file_name": label_file.name, "segments_info": segments})
            for annotation in instance_annotations(ids, segments):
                instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})
    if has_instances:
        things = [c for c in ADE20K_CATEGORIES if c["isthing"]]
        for kind, annotations, classes in (("panoptic", panoptic, ADE20K_CATEGORIES), ("instance", instances, things)):
            content = {"images": images, "annotations": annotations, "categories": classes}
            (root / f"ade20k_{kind}_{split}.json").write_text(json.dumps(content))
    return len(images)


def prepare_full(root: Path, split: str) -> int:
    """Write images and labels of the 847 classes for evaluation, with a short side of up to 512 pixels.

    As in published evaluations, images are resized bilinearly without antialiasing, and labels to the nearest.

    Args:
        root: ADE20K_2021_17_01. ``images/ADE/{training,validation}`` is read below it, and ``images_detectron2`` and
            ``annotations_detectron2`` (16-bit TIFF) are written.
        split: one of `SPLITS`.

    Returns:
        The number of images.

    Raises:
        InputError: if files are missing or do not fit.
    """
    import torch
    import torch.nn.functional as F

    from clipself_d2.data.image import read_image

    part = SPLITS[split]
    files = _files(root / "images/ADE" / part, "**/*.jpg")
    for kind in ("images", "annotations"):
        (root / f"{kind}_detectron2" / part).mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, f"full ADE20K {split}", unit="image", delay=1):
        label_file = file.with_name(f"{file.stem}_seg.png")
        image, colors = read_image(file), read_image(label_file)
        if image.shape != colors.shape:
            raise InputError(f"{label_file}: is of another size than its image: download both again")
        labels = torch.from_numpy(full_labels(colors.permute(1, 2, 0).numpy(), label_file).astype(np.int32))
        height, width = image.shape[1:]
        if min(height, width) > FULL_SHORT_SIDE:
            scale = FULL_SHORT_SIDE / min(height, width)
            size = (round(height * scale), round(width * scale))
            image = F.interpolate(image[None].float(), size, mode="bilinear").round().byte()[0]
            labels = F.interpolate(labels[None, None].float(), size, mode="nearest").int()[0, 0]
        name = root / "images_detectron2" / part / file.name
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(name)
        tiff = root / "annotations_detectron2" / part / f"{file.stem}.tif"
        Image.fromarray(labels.numpy().astype(np.uint16)).save(tiff)
    return len(files)


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise InputError(f"{folder}: holds no images: download the data set as datasets/README.md says")
    return files


def _encode(mask: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return COCO's run lengths of a mask, and its area and box."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    extent = {"area": int(coco_mask.area(rle)), "bbox": [float(v) for v in coco_mask.toBbox(rle)]}
    return {**rle, "counts": rle["counts"].decode()}, extent


PARTS = {"ADEChallengeData2016": prepare_scene_parsing, "ADE20K_2021_17_01": prepare_full}


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: train val")
    args = parser.parse_args(argv)
    there = [name for name in PARTS if (args.root / name).is_dir()]
    if not there:
        raise InputError(f"{args.root}: has none of {', '.join(PARTS)}: download them as datasets/README.md says")
    for name in there:
        for split in args.splits:
            print(f"{name} {split}: {PARTS[name](args.root / name, split)} images")


if __name__ == "__main__":
    sys.exit(main())
