"""Label images: semantic labels and panoptic segment ids, one per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipself_d2.data.annotations import check_folder
from clipself_d2.data.image import ImageError
from clipself_d2.errors import InputError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_LABEL_SUFFIXES = (".png", ".tif")


def load_semantic(image_root: str | Path, label_root: str | Path, ignore_label: int = 255) -> list[dict[str, Any]]:
    """List images with semantic labels, paired by name: ``a.png`` or ``a.tif`` labels ``a.jpg``.

    Args:
        image_root: the folder of the images.
        label_root: the folder of the label images; only images that it labels are listed.
        ignore_label: the label of pixels that are not evaluated.

    Returns:
        A dict per label image: ``file_name``, ``sem_seg_file_name``, ``image_id`` (its number in the order of names)
        and ``ignore_label``.

    Raises:
        InputError: if a folder is missing, holds no labels, or lacks an image.
    """
    images, labels = check_folder(image_root, "images"), check_folder(label_root, "semantic labels")
    files = sorted(file for file in labels.iterdir() if file.suffix.lower() in _LABEL_SUFFIXES)
    if not files:
        raise InputError(f"{labels}: holds no label images (.png or .tif): prepare the data set again")
    names = {file.stem: file.name for file in images.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES}
    if lacks := [file.stem for file in files if file.stem not in names]:
        raise InputError(f"{images}: has no image {lacks[0]}, which {labels} labels: complete the folder")
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
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode) if mode else image).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: the label image cannot be read ({error}): download or prepare it again") from error


def _of_shape(labels: np.ndarray, path: str | Path, shape: tuple[int, int] | None) -> np.ndarray:
    if shape is not None and labels.shape != shape:
        raise InputError(
            f"{path}: is {labels.shape[1]} x {labels.shape[0]} pixels, its image {shape[1]} x {shape[0]}: use the "
            "labels of this image"
        )
    return labels
