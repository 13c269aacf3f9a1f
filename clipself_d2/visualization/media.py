"""Images and videos of a user: reading their frames, and writing drawn frames in the same kind of file.

Pillow reads images and animations (GIF, WebP, APNG), OpenCV videos, streams and webcams.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.data.image import ImageError, read_image
from clipself_d2.files import ANIMATIONS, VIDEOS, Stream

try:
    from cv2.utils.logging import setLogLevel as set_log_level  # OpenCV 5
except ImportError:
    from cv2 import setLogLevel as set_log_level

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is one line of ours

logger = logging.getLogger(__name__)

_DEFAULT_FPS = {"animation": 10.0, "video": 25.0}  # if a file does not say


_PATIENCE = 10_000  # milliseconds that a stream may take to open, and for a frame


@dataclass
class FrameSource:
    """An image or video that is being read.

    Attributes:
        path: the file, or the stream.
        frames: 3 x H x W uint8 RGB tensors, at least one; exactly one for an image.
        count: number of frames that the file announces; 0 for a stream, which does not.
        fps: frames per second; 0 for an image.
    """

    path: Path | Stream
    frames: Iterator[Tensor]
    count: int = 1
    fps: float = 0.0


def check_stream(stream: Stream) -> None:
    """Raise an ImageError for a stream that does not answer within `_PATIENCE`."""
    _open_video(stream)


def open_frames(path: Path | Stream) -> FrameSource:
    """Start to read an image, animation, video or stream.

    If a video breaks off before its announced end, its frames end there with a warning.

    Raises:
        ImageError: not even the first frame can be read.
    """
    suffix = path.suffix.lower() if isinstance(path, Path) else ""
    if isinstance(path, Stream) or suffix in VIDEOS:
        source = _open_video(path)
    elif suffix not in ANIMATIONS or (animation := _open_animation(path)) is None:
        return FrameSource(path, iter([read_image(path)]))
    else:
        source = animation
    first = next(source.frames, None)
    if first is None:
        fix = "replace or remove the file" if isinstance(path, Path) else "check its address"
        raise ImageError(f"{path}: no frame of it can be read: {fix}")
    source.frames = _warn_if_short(source, itertools.chain([first], source.frames))
    return source


def write_frames(stem: Path, frames: Iterable[Image.Image], source: FrameSource) -> Path:
    """Write an image as `.jpg`, an animation as `.gif`, a video as `.mp4`. The file appears whole or not at all.

    Args:
        stem: the new file without its suffix.
        frames: images, all of one size.
        source: where they come from; it tells the kind of file and the frame rate.

    Returns:
        The new file.
    """
    frames = iter(frames)
    if not source.fps:
        output = stem.with_name(f"{stem.name}.jpg")
        write_atomically(output, lambda file: next(frames).save(file, quality=92, subsampling=0))
    elif isinstance(source.path, Stream) or source.path.suffix.lower() in VIDEOS:
        output = stem.with_name(f"{stem.name}.mp4")
        write_atomically(output, lambda file: _write_video(file, frames, source.fps))
    else:
        output = stem.with_name(f"{stem.name}.gif")
        duration = round(1000 / source.fps)  # of a frame, in milliseconds
        write_atomically(
            output,
            lambda file: next(frames).save(file, save_all=True, append_images=frames, duration=duration, loop=0),
        )
    return output


def _warn_if_short(source: FrameSource, frames: Iterator[Tensor]) -> Iterator[Tensor]:
    number = 0
    for number, frame in enumerate(frames, 1):  # noqa: B007
        yield frame
    if number < source.count:
        logger.warning("%s: ends early, after %d of %d frames", source.path, number, source.count)


def _open_animation(path: Path) -> FrameSource | None:
    """Return the frames of an image file with several frames; None for any other file, which `read_image` judges."""
    try:
        image = Image.open(path)
        if not getattr(image, "is_animated", False):
            image.close()
            return None
        image.load()  # WebP tells the duration of a frame with the frame
        milliseconds = image.info.get("duration", 0)
        fps = 1000 / milliseconds if milliseconds else _DEFAULT_FPS["animation"]
        return FrameSource(path, _animation_frames(image), getattr(image, "n_frames", 1), fps)
    except Exception:  # as in `open_image`
        return None


def _animation_frames(image: Image.Image) -> Iterator[Tensor]:
    with image:
        try:
            for frame in ImageSequence.Iterator(image):
                yield torch.from_numpy(np.array(frame.convert("RGB"))).permute(2, 0, 1).contiguous()
        except Exception:  # as in `open_image`
            return  # broken off


def _open_video(path: Path | Stream) -> FrameSource:
    level = set_log_level(0)
    if isinstance(path, Path):
        capture = cv2.VideoCapture(str(path))
    elif path.address.lower().startswith("webcam"):
        capture = cv2.VideoCapture(int(path.address.partition(":")[2] or 0))
    else:
        patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE]
        capture = cv2.VideoCapture(path.address, cv2.CAP_FFMPEG, patience)
    set_log_level(level)
    if not capture.isOpened():
        if isinstance(path, Stream):
            raise ImageError(f"{path}: the stream cannot be opened: check its address, and that it is on")
        raise ImageError(f"{path}: OpenCV cannot decode this video: replace or remove the file")
    count = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if isinstance(path, Path) else 0
    fps = capture.get(cv2.CAP_PROP_FPS)
    return FrameSource(path, _video_frames(capture), count, fps if 0 < fps < 1000 else _DEFAULT_FPS["video"])


def _video_frames(capture: cv2.VideoCapture) -> Iterator[Tensor]:
    try:
        while True:
            success, pixels = capture.read()
            if not success:
                return
            yield torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1).contiguous()
    finally:
        capture.release()


def _write_video(file: Path, frames: Iterator[Image.Image], fps: float) -> None:
    writer = None
    try:
        for frame in frames:
            pixels = np.asarray(frame)[:, :, ::-1]
            # The codec takes even sizes only.
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
            if writer is None:
                size = (pixels.shape[1], pixels.shape[0])
                writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
                if not writer.isOpened():
                    raise OSError(f"{file}: OpenCV cannot write this video")
            writer.write(np.ascontiguousarray(pixels))
    finally:
        if writer is not None:
            writer.release()
