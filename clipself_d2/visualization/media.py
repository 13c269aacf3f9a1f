"""Images and videos of a user: finding them, reading their frames, writing drawn frames in the same kind of file.

Pillow reads images and animations (GIF, WebP, APNG), OpenCV videos, streams and webcams.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.data.image import IMAGE_SUFFIXES, ImageError, find_images, read_image
from clipself_d2.errors import InputError

try:
    from cv2.utils.logging import setLogLevel as set_log_level  # OpenCV 5
except ImportError:
    from cv2 import setLogLevel as set_log_level

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is one line of ours

logger = logging.getLogger(__name__)

ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_KNOWN = IMAGE_SUFFIXES | ANIMATIONS | VIDEOS
_LONGEST_NAME = 200  # bytes; file systems allow 255 with suffix
_DEFAULT_FPS = {"animation": 10.0, "video": 25.0}  # if a file does not say


_STREAM = re.compile(r"webcam(:\d+)?|(rtsps?|rtmps?|https?|srt|tcp|udp)://.+", re.IGNORECASE)
_PATIENCE = 10_000  # milliseconds that a stream may take to open, and for a frame


@dataclass(frozen=True)
class Stream:
    """A webcam, or a video of the network.

    Attributes:
        address: "webcam", "webcam:1" for the second one, or a URL.
    """

    address: str

    def __str__(self) -> str:
        """The address without its password."""
        return re.sub(r"//[^/]*@", "//", self.address)

    @property
    def name(self) -> str:
        """For the files of its results."""
        place, _, query = re.sub(r"^\w+://", "", str(self)).partition("?")
        digest = hashlib.blake2b(query.encode(), digest_size=4).hexdigest() if query else ""
        return re.sub(r"\W+", "_", f"{place} {digest}").strip("_")

    stem = name


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


def is_stream(text: str) -> bool:
    """Whether a text is the address of a `Stream`, and not of a file."""
    return bool(_STREAM.fullmatch(text)) and not Path(text).exists()


def check_stream(stream: Stream) -> None:
    """Raise an ImageError for a stream that does not answer within `_PATIENCE`."""
    _open_video(stream)


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files among `paths`, and the images and videos that their folders and patterns (``*.png``) hold.

    Subfolders are searched, hidden files left out.

    Raises:
        InputError: a path does not exist, or a folder or pattern has no image or video.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_file():
            found.append(path)
            continue
        matches = [path] if path.is_dir() else sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        if not matches:
            hint = f"; a webcam is webcam:{path}" if str(path).isdecimal() else ""
            raise InputError(f"{path}: there is no such file or folder{hint}")
        inside = [file for match in matches for file in _known_files(match)]
        if not inside:
            raise InputError(f"{path}: no image or video in this folder (known are {' '.join(sorted(_KNOWN))})")
        found += inside
    return list({file.absolute(): file for file in found}.values())


def _known_files(path: Path) -> list[Path]:
    if path.is_dir():
        return find_images(path, _KNOWN)
    return [path] if path.suffix.lower() in _KNOWN else []


def output_stems(inputs: Sequence[Path | Stream], folder: Path) -> list[Path]:
    """Name the results of files and streams without their suffixes, each differently.

    Args:
        inputs: different ones. If files are of several folders, their results keep these below the common one.
        folder: where results go.
    """
    # A stream counts as a file of the first file's folder.
    home = next((file.absolute().parent for file in inputs if isinstance(file, Path)), Path.cwd())
    files = [file.absolute() if isinstance(file, Path) else home / file.name for file in inputs]
    root = Path(os.path.commonpath([file.parent for file in files]))
    stems, names = Counter(file.with_suffix("") for file in files), set(files)
    results = []
    for file in files:
        stem = file.with_suffix("")
        name = stem.name if stems[stem] == 1 and stem not in names else file.name
        if len(name.encode()) > _LONGEST_NAME:
            digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
            name = f"{name.encode()[: _LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}.{digest}"
        results.append(folder / file.parent.relative_to(root) / name)
    return results


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
