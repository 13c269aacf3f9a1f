"""Reading photographs of every kind into one form: uint8 RGB, upright."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from clipself_d2.errors import InputError


class ImageError(InputError):
    """A photograph that is missing or cannot be decoded; loaders leave it out of the batch, warn and count."""


def result_size(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the frame that an image's results are wanted in: ``height`` and ``width``, else its own."""
    height, width = sample["image"].shape[-2:]
    return sample.get("height", height), sample.get("width", width)


def read_image(path: str | Path) -> Tensor:
    """Reads a photograph.

    The EXIF orientation is applied. Grey, palette and CMYK images are converted, transparency is dropped, and 16-bit
    grey levels are scaled to 8 bits (divided by 257), not clipped.

    Args:
        path: a file in any format of Pillow.

    Returns:
        3 x H x W uint8 tensor, RGB, 0..255.

    Raises:
        ImageError: if the file is missing, truncated, no image or too large for Pillow.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such image: check the file name and the image folder") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: this is no image that Pillow knows: replace or remove the file") from error
    # Pillow's decoders raise many kinds of exceptions for damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: the image cannot be read ({error}): replace or remove the file") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


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
