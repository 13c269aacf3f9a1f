"""Files of a user: finding those that are read, naming those that are written. Nothing slow is imported."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from clipself_d2.errors import InputError

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif"])
"""Of the files that are images; letters of any case."""

ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_KNOWN = IMAGE_SUFFIXES | ANIMATIONS | VIDEOS
_LONGEST_NAME = 200  # bytes; file systems allow 255 with suffix
_STREAM = re.compile(r"webcam(:\d+)?|(rtsps?|rtmps?|https?|srt|tcp|udp)://.+", re.IGNORECASE)
# Of the recipes: in an installed package, and in a clone.
CONFIG_FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")

REPOSITORIES = ("hf-hub:", "local-dir:")
"""How names of repositories begin: ``hf-hub:OWNER/NAME``, and ``local-dir:FOLDER`` with the same files."""


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


def find_images(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """List the image files of a folder and its subfolders by name, without hidden ones."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes)
    visible = (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in visible if file.is_file())


def is_stream(text: str) -> bool:
    """Whether a text is the address of a `Stream`, and not of a file or of an image of the web."""
    path = text.partition("?")[0]
    return bool(_STREAM.fullmatch(text)) and Path(path).suffix.lower() not in IMAGE_SUFFIXES and not Path(text).exists()


def find_files(paths: Sequence[str | Path], suffixes: Collection[str] = _KNOWN) -> list[Path]:
    """Return the files among `paths`, and those of some suffixes that their folders and patterns (``*.png``) hold.

    Subfolders are searched, hidden files left out.

    Args:
        paths: files, folders and patterns.
        suffixes: of images and videos by default.

    Raises:
        InputError: a path does not exist, or a folder or pattern has no such file.
    """
    found: list[Path] = []
    for text, path in ((str(path), Path(path).expanduser()) for path in paths):
        if path.is_file():
            found.append(path)
            continue
        matches = [path] if path.is_dir() else sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        if not matches:
            if "://" in text:
                raise InputError(f"{text}: is no file: download it, and name the file")
            hint = f"; a webcam is webcam:{path}" if text.isdecimal() else ""
            raise InputError(f"{path}: there is no such file or folder{hint}")
        inside = [file for match in matches for file in _files_of(match, suffixes)]
        if not inside:
            raise InputError(f"{path}: no image or video in this folder (known are {' '.join(sorted(suffixes))})")
        found += inside
    return list({file.absolute(): file for file in found}.values())


def _files_of(path: Path, suffixes: Collection[str]) -> list[Path]:
    if path.is_dir():
        return find_images(path, suffixes)
    return [path] if path.suffix.lower() in suffixes else []


def output_stems(inputs: Sequence[Path | Stream], folder: Path) -> list[Path]:
    """Name the results of files and streams without their suffixes, each differently.

    Args:
        inputs: different ones. If files are of several folders, their results keep these below the common one.
        folder: where results go.

    Raises:
        InputError: results would go into a folder of the inputs.
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
    sources = {file.resolve().parent for file in inputs if isinstance(file, Path)}
    if sources & {stem.parent.resolve() for stem in results}:
        raise InputError(f"{folder}: has the inputs, which would be overwritten: name another folder for results")
    return results


def find_config(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: a path, or the name of a config that comes with this package: ``miniature/fvit``.

    Raises:
        InputError: there is no such file, and no such name.
    """
    if (path := Path(name).expanduser()).is_file():
        return path
    shipped = next(folder for folder in CONFIG_FOLDERS if (folder / "common").is_dir())
    recipes = [file for file in shipped.glob("*/*.py") if file.parent.name != "common"]
    names = {f"{file.parent.name}/{file.stem}": file for file in recipes}
    if str(name) not in names:
        nearest = get_close_matches(str(name), names, 1, 0.0)[0]
        raise InputError(f"{name}: no such config file, nor a config of this package; did you mean {nearest}?")
    return names[str(name)]
