"""Panoptic and semantic labels: loading a data set of label images, and from a record to a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipself_d2.data.annotations import check_folder
from clipself_d2.data.image import ImageError, read_image
from clipself_d2.data.mappers import read_panoptic_png
from clipself_d2.errors import InputError

_LABEL_SUFFIXES = {".png", ".tif"}


def load_semantic(image_root: str | Path, label_root: str | Path, ignore_label: int = 255) -> list[dict[str, Any]]:
    """Lists photographs with semantic labels, paired by name: ``a.png`` or ``a.tif`` labels ``a.jpg``.

    Args:
        image_root: the folder of the photographs.
        label_root: the folder of the label images; only photographs that it labels are listed.
        ignore_label: what stands for "not judged" in them.

    Returns:
        A dict a label image: ``file_name``, ``sem_seg_file_name``, ``image_id``, its number in the order of names, and
        ``ignore_label``.

    Raises:
        InputError: if a folder is missing, holds no labels, or lacks a photograph.
    """
    images, labels = check_folder(image_root, "photographs"), check_folder(label_root, "semantic labels")
    files = sorted(file for file in labels.iterdir() if file.suffix.lower() in _LABEL_SUFFIXES)
    if not files:
        raise InputError(f"{labels}: holds no label images (.png or .tif): prepare the data set anew")
    names = {file.stem: file.name for file in images.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    if lacks := [file.stem for file in files if file.stem not in names]:
        raise InputError(f"{images}: has no photograph {lacks[0]}, which {labels} labels: complete the folder")
    return [
        {
            "file_name": str(images / names[file.stem]),
            "sem_seg_file_name": str(file),
            "image_id": number,
            "ignore_label": ignore_label,
        }
        for number, file in enumerate(files)
    ]


def ignore_label(sample: Mapping[str, Any]) -> int:
    """The label that means "not judged" in the semantic labels of a record or sample: its own, or 255."""
    return int(sample.get("ignore_label", 255))


class PanopticMapper:
    """Reads a photograph and its labels; the masks of the ground truth can then serve as a mask generator."""

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Maps a record to an evaluation sample.

        Args:
            record: ``file_name`` and ``pan_seg_file_name`` with ``segments_info`` (`load_panoptic`),
                ``sem_seg_file_name`` (`load_semantic`), or all of them; and maybe ``ignore_label``, see `ignore_label`.

        Returns:
            The record with ``image`` (3 x H x W uint8), ``height``, ``width``, ``masks`` (R x H x W bool), ``classes``
            (R long), ``isthing`` and ``iscrowd`` (R bool), a row a segment in the order of ``segments_info``, and
            ``sem_seg`` (H x W long: classes, or ``ignore_label``). Semantic labels come from their own file where there
            is one, else from the segments. Without panoptic labels every class of the image is one segment of stuff.

        Raises:
            ImageError: if a file cannot be read.
            InputError: if there are no labels, they are of another size than the photograph, or segments and panoptic
                PNG differ.
        """
        image = read_image(record["file_name"])
        if not {"sem_seg_file_name", "pan_seg_file_name"} & record.keys():
            raise InputError(
                f"{record['file_name']}: has no panoptic or semantic labels: name a data set that has them"
            )
        ignored = ignore_label(record)
        sample = {**record, "image": image, "height": image.shape[1], "width": image.shape[2]}
        if "sem_seg_file_name" in record:
            sample["sem_seg"] = self._labels_of(image, record["sem_seg_file_name"], read_semantic_labels)
        if "pan_seg_file_name" in record:
            ids = self._labels_of(image, record["pan_seg_file_name"], read_panoptic_png)
            segments = record["segments_info"]
            rows = segment_rows(ids, [s["id"] for s in segments], record["pan_seg_file_name"])
            classes = torch.tensor([s["category_id"] for s in segments], dtype=torch.long)
            sample["isthing"] = torch.tensor([bool(s["isthing"]) for s in segments], dtype=torch.bool)
            sample["iscrowd"] = torch.tensor([bool(s.get("iscrowd", 0)) for s in segments], dtype=torch.bool)
            sample["masks"] = rows == torch.arange(len(segments))[:, None, None]
            # The last entry is for unlabelled pixels, whose row is -1.
            sample.setdefault("sem_seg", torch.cat([classes, torch.tensor([ignored])])[rows])
        else:
            labels = sample["sem_seg"].unique()
            classes = labels[labels != ignored]
            sample["isthing"] = sample["iscrowd"] = torch.zeros(len(classes), dtype=torch.bool)
            sample["masks"] = sample["sem_seg"] == classes[:, None, None]
        return {**sample, "classes": classes}

    @staticmethod
    def _labels_of(image: Tensor, path: str, read: Callable[[str], Tensor]) -> Tensor:
        labels = read(path)
        if labels.shape != image.shape[1:]:
            height, width = image.shape[1:]
            raise InputError(
                f"{path}: is {labels.shape[1]} x {labels.shape[0]} pixels, its photograph {width} x {height}: use the "
                "labels of this photograph"
            )
        return labels


def read_semantic_labels(path: str | Path) -> Tensor:
    """Labels of a semantic PNG or TIFF, 8 or 16 bits, grey or palette: H x W long.

    Raises:
        ImageError: if it cannot be read.
        InputError: if it has colours instead of labels.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: the label image cannot be read ({error}): prepare it anew") from error
    if labels.ndim != 2:
        raise InputError(f"{path}: has {labels.shape[2]} colours a pixel, not one label: prepare it as labels")
    return torch.from_numpy(labels)


def segment_rows(ids: Tensor, listed: list[int], source: str) -> Tensor:
    """The row of `listed` that each pixel's id has.

    Args:
        ids: H x W long, the segment ids of a panoptic PNG; 0 is unlabelled.
        listed: the ids in the json.
        source: the file's name, for messages.

    Returns:
        H x W long: 0 .. len(listed) - 1, or -1 where unlabelled.

    Raises:
        InputError: if an id is listed twice, is listed but not in the PNG, or is there but not listed.
    """
    if len(set(listed)) < len(listed):
        twice = next(i for i in listed if listed.count(i) > 1)
        raise InputError(f"{source}: the json lists segment {twice} twice: mend its 'segments_info'")
    found, inverse = ids.unique(return_inverse=True)
    if lacks := sorted(set(listed) - set(found[found > 0].tolist())):
        raise InputError(f"{source}: lacks segment {lacks[0]} of the json: use the PNG and the json of one data set")
    if extra := sorted(set(found.tolist()) - {0, *listed}):
        raise InputError(f"{source}: has segment {extra[0]} that the json lacks: use the PNG and json of one data set")
    row = {id_: number for number, id_ in enumerate(listed)}
    return torch.tensor([row.get(id_, -1) for id_ in found.tolist()], dtype=torch.long)[inverse]
