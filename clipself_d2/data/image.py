"""Read images of every kind into one form: uint8 RGB, upright."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.schema import HOW_TO_GET

with suppress(ImportError):  # HEIC is read where it is installed
    from pillow_heif import register_heif_opener

    register_heif_opener()

MAX_PIXELS = os.environ.get("CLIPSELF_D2_MAX_PIXELS", "178956970")
"""The largest image that is read: Pillow's own limit, unless the environment sets another."""

_HEIC = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")}

if not MAX_PIXELS.isdecimal():
    raise InputError(f"CLIPSELF_D2_MAX_PIXELS={MAX_PIXELS}: give the pixels of the largest image, a whole number")
Image.MAX_IMAGE_PIXELS = int(MAX_PIXELS) // 2  # Pillow refuses twice that


class ImageError(InputError):
    """An image that is missing or cannot be decoded. Loaders replace it, warn and count."""


def check_folder(path: str | Path, what: str) -> Path:
    """Return the path of a folder; InputError if there is none."""
    if not Path(path).is_dir():
        raise InputError(f"{path}: there is no such folder of {what}: {HOW_TO_GET}")
    return Path(path)


def check_pixels(height: int, width: int, source: str) -> None:
    """Raise InputError for more pixels than are read."""
    if height * width > int(MAX_PIXELS):
        raise InputError(f"{source}: has {width} x {height} pixels, more than {MAX_PIXELS}: set CLIPSELF_D2_MAX_PIXELS")


def read_record(record: Mapping[str, Any], min_decode_size: int | None = None) -> dict[str, Any]:
    """Read the image of a dataset dict.

    Args:
        record: with ``file_name`` and, where known, ``height`` and ``width``.
        min_decode_size: see `read_image`.

    Returns:
        The record with ``image`` (3 x H x W uint8), and ``height`` and ``width`` of the whole image, which are those of
        ``image`` unless it was decoded at a reduced size.

    Raises:
        ImageError: if the image cannot be read, or is not of the size in the record: its annotations do not fit then.
    """
    path = record["file_name"]
    image = read_image(path, min_decode_size)
    height, width = image_size(path) if min_decode_size else image.shape[1:]
    expected = record.get("height", height), record.get("width", width)
    if expected != (height, width):
        raise ImageError(
            f"{path}: is {width} x {height} pixels, its annotations are for {expected[1]} x {expected[0]}: use the "
            "image that was annotated"
        )
    return {**record, "image": image, "height": height, "width": width}


def result_size(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width that a sample's results are wanted in: ``height`` and ``width``, else the image's."""
    height, width = sample["image"].shape[-2:]
    return sample.get("height", height), sample.get("width", width)


def read_image(source: str | Path | Image.Image | np.ndarray, min_decode_size: int | None = None) -> Tensor:
    """Read an image, of a file or of other software.

    The EXIF orientation is applied. Grayscale, palette and CMYK images are converted, transparency is dropped, and
    16-bit levels are scaled to 8 bits (divided by 257).

    A large JPEG is decoded several times faster at a half, a quarter or an eighth of its size. With a `min_decode_size`
    it is decoded at 1/s for the largest s of 8, 4, 2, 1 that leaves the long side `min_decode_size` pixels or more: H /
    s by W / s pixels, rounded up. Letterboxed to `min_decode_size` or less, it differs from the whole image by two
    levels on average, and its short side by up to a pixel. Other formats are always decoded whole.

    Args:
        source: a file in any format of Pillow; an image of Pillow; or an array, H x W x 3 uint8 in RGB (OpenCV's BGR:
            ``array[..., ::-1]``) or H x W uint8 gray levels.
        min_decode_size: pixels of a file that the long side must keep; None for all.

    Returns:
        3 x H x W uint8, RGB.

    Raises:
        ImageError: if the file is missing, truncated, no image, or too large for Pillow; an array of another kind.
        ValueError: an image of Pillow in floating point, or with levels beyond 16 bits.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        return _to_tensor(source)
    with open_image(source) as image:
        if min_decode_size:
            image.draft(None, (min_decode_size, 1) if image.width > image.height else (1, min_decode_size))
        return _to_tensor(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read height and width of the upright image from its header; see `read_image`."""
    with open_image(path) as image:
        # Pillow turns the size of TIFFs itself.
        turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size if turned else (image.height, image.width)


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with it becomes an ImageError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such image: check the file name and the image folder") from error
    except UnidentifiedImageError as error:
        if "HEIF" not in Image.OPEN and Path(path).read_bytes()[4:12] in _HEIC:
            raise ImageError(f"{path}: is HEIC: pip install pillow-heif, or convert it") from error
        raise ImageError(f"{path}: is no image that Pillow knows: replace or remove the file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: has more pixels than {MAX_PIXELS}: set CLIPSELF_D2_MAX_PIXELS") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise every kind of exception for damaged files
        raise ImageError(f"{path}: the image cannot be read ({error}): replace or remove the file") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or not array.size or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise ImageError(f"an array of {array.dtype} and shape {array.shape}: give H x W x 3 uint8 in RGB, or H x W")
    return Image.fromarray(array)


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: "I;16" and its kin; "I" is 32 bits wide but holds 16
        levels = np.asarray(image).astype(np.int64)
        if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
            raise ValueError("gray levels beyond 16 bits")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point gray levels have no known range")
    elif image.mode in ("P", "PA"):  # by way of RGBA, since palettes may hold transparency
        image = image.convert("RGBA")
    return image.convert("RGB")
