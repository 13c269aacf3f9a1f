"""Reading photographs of every kind into one form: uint8 RGB, upright."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from clipself_d2.errors import InputError


class ImageError(InputError):
    """A photograph that is missing or cannot be decoded; loaders leave it out of the batch, warn and count."""


def result_size(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the frame that an image's results are wanted in: ``height`` and ``width``, else its own."""
    height, width = sample["image"].shape[-2:]
    return sample.get("height", height), sample.get("width", width)


def read_image(path: str | Path, min_decode_size: int | None = None) -> Tensor:
    """Reads a photograph.

    The EXIF orientation is applied. Grey, palette and CMYK images are converted, transparency is dropped, and 16-bit
    grey levels are scaled to 8 bits (divided by 257), not clipped.

    A large JPEG is decoded several times faster at a half, a quarter or an eighth of its size: 1/s for the largest s of
    8, 4, 2, 1 with which long side / s is still min_decode_size or more. The result is then H / s by W / s pixels,
    rounded up. Letterboxed to min_decode_size pixels or fewer it differs from the whole image by two gray levels in the
    mean, and its short side by at most a pixel. Other formats are always decoded whole.

    Args:
        path: a file in any format of Pillow.
        min_decode_size: pixels that the long side must keep; None for all.

    Returns:
        3 x H x W uint8 tensor, RGB, 0..255.

    Raises:
        ImageError: if the file is missing, truncated, no image or too large for Pillow.
    """
    with _readable(path) as image:
        if min_decode_size:
            image.draft(None, (min_decode_size, 1) if image.width > image.height else (1, min_decode_size))
        pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns of an upright photograph, read off its header; see `read_image`."""
    with _readable(path) as image:
        # Pillow turns the size of TIFFs itself.
        turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size if turned else (image.height, image.width)


@contextmanager
def _readable(path: str | Path) -> Iterator[Image.Image]:
    """The open image; whatever is wrong with it is an ImageError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such image: check the file name and the image folder") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: this is no image that Pillow knows: replace or remove the file") from error
    # Pillow's decoders raise many kinds of exceptions for damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: the image cannot be read ({error}): replace or remove the file") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: "I;16" and its kin; "I" is 32 bits wide but holds 16
        levels = np.asarray(image).astype(np.int64)
        if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
            raise ValueError("grey levels beyond 16 bits")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point grey levels have no known range")
    elif image.mode in ("P", "PA"):  # by way of RGBA, since palettes may hold transparency
        image = image.convert("RGBA")
    return image.convert("RGB")
