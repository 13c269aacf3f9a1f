"""Pictures and films: finding them, reading their frames, writing frames in the like format.

Pictures and animations (GIF, WebP, APNG) are read by Pillow, films by OpenCV, which is only needed for these.
"""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.data import ImageError, read_image
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
FILMS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_GIF_SECONDS = 0.1  # a frame, where an animation does not say


@dataclass
class Medium:
    """A picture or film that is being read.

    Attributes:
        frames: 3 x H x W uint8 RGB tensors, one for a picture; at least one.
        count: how many frames the file announces.
        rate: frames a second; 0 for a picture.
    """

    frames: Iterator[Tensor]
    count: int = 1
    rate: float = 0.0


def find_media(sources: Sequence[str | Path]) -> list[Path]:
    """Files to read: those named, and those in the folders named (not below) whose suffix is of a picture or film.

    Raises:
        InputError: a path that is not there, or a folder without any.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            known = PICTURES | ANIMATIONS | FILMS
            inside = sorted(path for path in source.iterdir() if path.suffix.lower() in known and path.is_file())
            if not inside:
                raise InputError(f"{source}: no picture or film in this folder (known are {' '.join(sorted(known))})")
            found += inside
        elif source.is_file():
            found.append(source)
        else:
            raise InputError(f"{source}: there is no such file or folder")
    return list(dict.fromkeys(found))


def open_medium(path: Path) -> Medium:
    """Starts to read a picture, animation or film.

    A film that ends before its announced end, or whose rest cannot be decoded, ends there with a warning.

    Raises:
        ImageError: if not even the first frame can be read, or OpenCV is needed and missing.
    """
    suffix = path.suffix.lower()
    if suffix in FILMS:
        medium = _open_film(path)
    elif suffix in ANIMATIONS and (animation := _open_animation(path)):
        medium = animation
    else:
        return Medium(iter([read_image(path)]))
    first = next(medium.frames, None)
    if first is None:
        raise ImageError(f"{path}: no frame of it can be read: replace or remove the file")
    medium.frames = _counted(path, itertools.chain([first], medium.frames), medium.count)
    return medium


def save_frames(stem: Path, frames: Iterable[Image.Image], medium: Medium, source: Path) -> Path:
    """Writes a picture as `.jpg`, an animation as `.gif`, a film as `.mp4`; the file appears whole or not at all.

    Args:
        stem: the new file without its suffix.
        frames: pictures; those of a film or animation all of one size.
        medium: where they come from, for the number and rate of frames.
        source: the file where they come from.

    Returns:
        The file.
    """
    if not medium.rate:
        output = stem.with_name(f"{stem.name}.jpg")
        write_atomically(output, lambda file: next(iter(frames)).save(file, quality=92, subsampling=0))
    elif source.suffix.lower() in FILMS:
        output = stem.with_name(f"{stem.name}.mp4")
        write_atomically(output, lambda file: _write_film(file, frames, medium.rate))
    else:
        output = stem.with_name(f"{stem.name}.gif")
        milliseconds = round(1000 / medium.rate)
        write_atomically(output, lambda file: _write_animation(file, iter(frames), milliseconds))
    return output


def _counted(path: Path, frames: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    number = 0
    for frame in frames:
        number += 1
        yield frame
    if number < count:
        logger.warning("%s: ends early, after %d of %d frames", path, number, count)


def _open_animation(path: Path) -> Medium | None:
    """The frames of a picture file with several; None for a still one, or one that cannot be opened."""
    try:
        image = Image.open(path)
        if not getattr(image, "is_animated", False):
            image.close()
            return None
        image.load()  # WebP tells the duration of a frame with the frame
        seconds = image.info.get("duration", 0) / 1000 or _GIF_SECONDS
        return Medium(_animation_frames(image), getattr(image, "n_frames", 1), 1 / seconds)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None  # read_image says what is wrong


def _animation_frames(image: Image.Image) -> Iterator[Tensor]:
    with image:
        for number in itertools.count():
            try:
                image.seek(number)
                pixels = np.array(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError, EOFError, IndexError):
                return
            yield torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _write_animation(file: Path, frames: Iterator[Image.Image], milliseconds: int) -> None:
    next(frames).save(file, save_all=True, append_images=frames, duration=milliseconds, loop=0)


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError:
        raise ImageError("films need OpenCV: pip install opencv-python-headless") from None


def _open_film(path: Path) -> Medium:
    cv2 = _opencv()
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ImageError(f"{path}: OpenCV cannot decode this film: replace or remove the file")
    count, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    return Medium(_film_frames(capture), max(1, count), rate if 0 < rate < 1000 else 25.0)


def _film_frames(capture: Any) -> Iterator[Tensor]:
    try:
        while True:
            sound, pixels = capture.read()
            if not sound:
                return
            yield torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1).contiguous()
    finally:
        capture.release()


def _write_film(file: Path, frames: Iterable[Image.Image], rate: float) -> None:
    cv2 = _opencv()
    writer = None
    try:
        for frame in frames:
            pixels = np.asarray(frame)[:, :, ::-1]
            # The codec takes even sizes only.
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
            if writer is None:
                size = (pixels.shape[1], pixels.shape[0])
                writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise OSError(f"{file}: OpenCV cannot write this film")
            writer.write(np.ascontiguousarray(pixels))
    finally:
        if writer is not None:
            writer.release()
