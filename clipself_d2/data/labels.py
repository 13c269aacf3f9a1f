"""Label images: semantic labels and panoptic segment ids, one per pixel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipself_d2.data.image import check_folder, open_image
from clipself_d2.errors import InputError
from clipself_d2.files import IMAGE_SUFFIXES, find_images

_LABEL_SUFFIXES = (".png", ".tif", ".tiff")


def load_semantic(image_root: str | Path, label_root: str | Path, ignore_label: int = 255) -> list[dict[str, Any]]:
    """List images with semantic labels, paired by name: ``x/a.png`` or ``x/a.tif`` labels ``x/a.jpg``.

    Args:
        image_root: the folder of the images.
        label_root: the folder of the label images; only images that it labels are listed.
        ignore_label: the label of pixels that are not evaluated.

    Returns:
        A dict per label image: ``file_name``, ``sem_seg_file_name``, ``image_id`` (its number in the order of names)
        and ``ignore_label``.

    Raises:
        InputError: if a folder is missing, holds no labels, or lacks an image, or two files have one name.
    """
    images = _by_name(check_folder(image_root, "images"), IMAGE_SUFFIXES)
    labels = _by_name(check_folder(label_root, "semantic labels"), _LABEL_SUFFIXES)
    if not labels:
        raise InputError(f"{label_root}: holds no label images (.png or .tif): prepare the data set again")
    if lacks := [name for name in labels if name not in images]:
        raise InputError(
            f"{image_root}: has no image {lacks[0]} ({' '.join(sorted(IMAGE_SUFFIXES))}), which {label_root} labels: "
            "complete the folder"
        )
    return [
        {
            "file_name": str(images[name]),
            "sem_seg_file_name": str(file),
            "image_id": number,
            "ignore_label": ignore_label,
        }
        for number, (name, file) in enumerate(labels.items())
    ]


def _by_name(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in find_images(folder, suffixes):
        name = str(file.relative_to(folder).with_suffix(""))
        if (first := files.setdefault(name, file)) is not file:
            raise InputError(f"{first} and {file} have one name: remove one")
    return files


def ignore_label(sample: Mapping[str, Any]) -> int:
    """Return the label of pixels that are not evaluated in a record or sample: its own, or 255."""
    return int(sample.get("ignore_label", 255))


def read_semantic_labels(path: str | Path, shape: tuple[int, int] | None = None) -> Tensor:
    """Read a semantic PNG or TIFF, 8 or 16 bits, grayscale or palette.

    Args:
        path: the file.
        shape: height and width that the labels must have.

    Returns:
        H x W long.

    Raises:
        ImageError: if it cannot be read.
        InputError: if it has colors instead of labels, or another size.
    """
    labels = _read(path, None)
    if labels.ndim != 2:
        raise InputError(f"{path}: has {labels.shape[2]} channels, not one label per pixel: prepare it as labels")
    return torch.from_numpy(_of_shape(labels, path, shape))


def read_panoptic_png(path: str | Path, shape: tuple[int, int] | None = None) -> Tensor:
    """Read the segment ids of a panoptic PNG: red + 256 green + 65536 blue. See `read_semantic_labels`."""
    red, green, blue = _read(path, "RGB").transpose(2, 0, 1)
    return torch.from_numpy(_of_shape(red + 256 * green + 65536 * blue, path, shape))


def _read(path: str | Path, mode: str | None) -> np.ndarray:
    with open_image(path) as image:
        return np.asarray(image.convert(mode) if mode else image).astype(np.int64)


def _of_shape(labels: np.ndarray, path: str | Path, shape: tuple[int, int] | None) -> np.ndarray:
    if shape is not None and labels.shape != shape:
        raise InputError(
            f"{path}: is {labels.shape[1]} x {labels.shape[0]} pixels, its image {shape[1]} x {shape[0]}: use the "
            "labels of this image"
        )
    return labels
