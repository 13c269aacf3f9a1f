"""Checkpoints for resuming a run."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import nn

from clipself_d2.clip.archive import read_archive
from clipself_d2.clip.checkpoint import not_finite, write_atomically
from clipself_d2.engine.errors import CheckpointError, NonFiniteWeightsError
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
_NAME = re.compile(r"checkpoint_(\d+)\.pth")
_DIGEST_SIZE = 24  # two bits of a zip's field that says how long its comment is: one flipped bit does not make it 0


class Stateful(Protocol):
    """Anything that can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings, in dictionaries and lists."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore what `state_dict` gave."""


class Checkpointer:
    """Saves and restores the named parts of a run: `DIRECTORY/checkpoint_0000120.pth` after 120 iterations.

    Unlike fvcore's, which Detectron2 uses, it replaces files atomically (after a kill or a full disk, each file is
    complete), executes nothing of a file (`read_archive`), notices each flipped bit, falls back to an earlier file, and
    neither saves nor restores weights that are not finite. Rank 0 writes; every rank reads. `last_checkpoint` holds the
    name of the newest file.

    Args:
        directory: where the files are; created when missing.
        max_to_keep: number of checkpoints to keep, at least 1.
        parts: objects with `state_dict` and `load_state_dict`: model, optimizer, trainer. An `InputError` of
            `load_state_dict` refuses to resume; any other exception means that the file is damaged.
    """

    def __init__(self, directory: str | Path, max_to_keep: int = 3, **parts: Stateful) -> None:
        self.directory = Path(directory)
        self.max_to_keep = max_to_keep
        self.parts = parts

    def save(self, iteration: int, *, required: bool = False) -> None:
        """Write the state after `iteration` finished iterations.

        A failure (a full disk) leaves the earlier checkpoints as they were.

        Args:
            iteration: number of finished iterations.
            required: raise upon a failure to write, instead of logging it.

        Raises:
            CheckpointError: when `required` and the file could not be written.
            NonFiniteWeightsError: a weight of the model is NaN or infinite.
        """
        if not comm.is_main_process():
            return
        path = self.directory / f"checkpoint_{iteration:07d}.pth"
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state["iteration"] = iteration
        if wrong := not_finite(state.get("model", {})):
            raise NonFiniteWeightsError(f"after {iteration} iterations {wrong}; a lower optimizer.lr may help")
        try:
            write_atomically(path, lambda file: write_state(state, file))
            write_atomically(self.directory / POINTER, lambda file: file.write_text(path.name))
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
            message = f"{path}: cannot save the checkpoint ({_one_line(error)}); free some disk space"
            if required:
                raise CheckpointError(message) from error
            logger.error("%s. The run goes on with the last good checkpoint.", message)
            return
        older = [old for old in self.checkpoints() if _iteration(old) < iteration and old.is_file()]
        for old in older[self.max_to_keep - 1 :]:
            old.unlink(missing_ok=True)

    def resume(self) -> int | None:
        """Restore the newest checkpoint that is whole, on every rank.

        Returns:
            The number of finished iterations, or None when the directory holds no checkpoint.

        Raises:
            InputError: no checkpoint is usable, or a part refuses it.
            OSError: a checkpoint cannot be opened or read, which says nothing about its content.
        """
        path = self._restore_newest() if comm.is_main_process() else None
        path = comm.all_gather(path)[0]
        if path is None:
            return None
        if not comm.is_main_process():
            self._restore(path)
        logger.info("Resumed from %s", path)
        return _iteration(path)

    def checkpoints(self) -> list[Path]:
        """What has a checkpoint's name, newest first."""
        found = [path for path in self.directory.glob("checkpoint_*.pth") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_iteration, reverse=True)

    def _restore_newest(self) -> Path | None:
        candidates = self.checkpoints()
        pointer = self.directory / POINTER
        if pointer.is_file():
            named = self.directory / pointer.read_bytes().decode(errors="replace").strip()
            if named in candidates:
                candidates = [named, *(path for path in candidates if path != named)]
            else:
                logger.warning("%s names %s, which does not exist; looking for the newest one", pointer, named.name)
        reasons = []
        for path in candidates:
            try:
                self._restore(path)
                return path
            except InputError:
                raise
            except Exception as error:  # whatever a damaged file makes of the readers
                if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek in a damaged file
                    raise
                reasons.append(f"{path.name}: {_one_line(error)}")
                logger.warning("%s cannot be used (%s); trying an earlier one", path, _one_line(error))
        if reasons:
            raise InputError(
                f"{self.directory}: none of its {len(reasons)} checkpoints can be used; remove them to start anew, or "
                f"pass the config that wrote them ({reasons[0]})"
            )
        return None

    def _restore(self, path: Path) -> None:
        """Raise whatever comes where the file is not what `save` wrote for these parts."""
        state = read(path)
        if type(state["iteration"]) is not int or state["iteration"] != _iteration(path):
            raise ValueError(f"it is of iteration {state['iteration']!r:.50}")
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            except Exception as error:
                raise ValueError(f"does not fit this config's {name}: {_one_line(error)}") from error
        if wrong := not_finite(state.get("model", {})):
            raise ValueError(wrong)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU.

    Raises:
        ValueError: not a checkpoint, or a damaged one.
        OSError: the file cannot be opened or read.
    """
    if path.is_dir():
        raise ValueError("is a folder")
    with path.open("rb") as file:  # what torch.save wrote alone has no comment
        if _digest(file) != file.read(_DIGEST_SIZE) and zipfile.ZipFile(file).comment:
            raise ValueError("is damaged: its checksum is not that of its content")
    try:
        state = read_archive(path)
    except InputError as error:  # which would refuse to resume, instead of trying an earlier file
        raise ValueError(error) from error
    if not isinstance(state, dict):
        raise ValueError("holds no dictionary")
    return state


def load_model(model: nn.Module, path: str | Path, without: Sequence[str] = ()) -> None:
    """Load the raw model of a checkpoint that `Checkpointer` wrote.

    Args:
        model: has each parameter of the checkpoint's model, and no other.
        path: the file.
        without: beginnings of names in the checkpoint to leave out.

    Raises:
        InputError: when the file is missing, unreadable, of another model or not finite, or has no name that starts
            like one in `without`.
    """
    if Path(path).suffix == ".safetensors":
        raise InputError(f"{path}: train.init_checkpoint takes a checkpoint_*.pth; name a tower as clip.pretrained")
    try:
        state = read(Path(path))["model"]
        if absent := [part for part in without if not any(name.startswith(part) for name in state)]:
            raise ValueError(f"train.init_without: it has no {absent[0]!r}")
        state = {name: value for name, value in state.items() if not name.startswith(tuple(without))}
        model.load_state_dict(state)
        if wrong := not_finite(state):
            raise ValueError(wrong)
    except Exception as error:
        raise InputError(f"{path}: cannot be loaded as train.init_checkpoint ({_one_line(error)})") from error


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a zip whose comment is a hash of everything before it."""
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = bytes(_DIGEST_SIZE)
    with path.open("rb+") as file:
        digest = _digest(file)
        file.seek(-_DIGEST_SIZE, os.SEEK_END)
        file.write(digest)


def _digest(file: Any) -> bytes:
    """The hash of an open file but its end, where `write_state` puts the hash."""
    left = file.seek(0, os.SEEK_END) - _DIGEST_SIZE
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    return digest.digest()


def _iteration(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _one_line(error: BaseException) -> str:
    """The whole message, unlike `errors.first_line`: PyTorch names the keys that do not fit below its first line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
