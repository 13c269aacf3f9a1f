"""Checkpoints for resuming a run."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import nn

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.engine.errors import CheckpointError
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
_NAME = re.compile(r"checkpoint_(\d+)\.pth")


class Stateful(Protocol):
    """Anything that can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings, in dictionaries and lists."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore what `state_dict` gave."""


class Checkpointer:
    """Saves and restores the named parts of a run: `DIRECTORY/checkpoint_0000120.pth` after 120 iterations.

    Unlike fvcore's, which Detectron2 uses, it replaces files atomically (after a kill or a full disk, each file is
    complete), reads with `weights_only=True`, falls back to an earlier file, and refuses weights of another model.
    Rank 0 writes; every rank reads. `last_checkpoint` holds the name of the newest file.

    Args:
        directory: where the files are; created when missing.
        max_to_keep: number of checkpoints to keep, at least 1.
        parts: objects with `state_dict` and `load_state_dict`: model, optimizer, trainer.
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
            required: raise upon a failure, instead of logging it.

        Raises:
            CheckpointError: when `required` and the file could not be written.
        """
        if not comm.is_main_process():
            return
        path = self.directory / f"checkpoint_{iteration:07d}.pth"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            state = {name: part.state_dict() for name, part in self.parts.items()} | {"iteration": iteration}
            for leftover in self.directory.glob(".checkpoint_*"):  # of a run killed while it wrote
                leftover.unlink()
            write_atomically(path, lambda file: torch.save(state, file))
            write_atomically(self.directory / POINTER, lambda file: file.write_text(path.name))
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
            message = f"{path}: cannot save the checkpoint ({_first_line(error)}); free some disk space"
            if required:
                raise CheckpointError(message) from error
            logger.error("%s. The run goes on with the last good checkpoint.", message)
            return
        older = [old for old in self.checkpoints() if _iteration(old) < iteration]
        for old in older[self.max_to_keep - 1 :]:
            old.unlink(missing_ok=True)

    def resume(self) -> int | None:
        """Restore the newest complete checkpoint on every rank.

        Returns:
            The number of finished iterations, or None when the directory holds no checkpoint.

        Raises:
            InputError: when no checkpoint is readable, or the checkpoint belongs to another model or optimizer.
            OSError: when a checkpoint cannot be opened, which says nothing about its content.
        """
        path, state = self._newest_readable() if comm.is_main_process() else (None, {})
        path = comm.all_gather(path)[0]
        if path is None:
            return None
        state = state or read(path)
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except Exception as error:
                raise InputError(f"{path}: does not fit this config's {name} ({_first_line(error)})") from error
        logger.info("Resumed from %s", path)
        return int(state["iteration"])

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, newest first."""
        found = [path for path in self.directory.glob("checkpoint_*.pth") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_iteration, reverse=True)

    def _newest_readable(self) -> tuple[Path | None, dict[str, Any]]:
        candidates = self.checkpoints()
        pointer = self.directory / POINTER
        if pointer.is_file():
            named = self.directory / pointer.read_text().strip()
            if named in candidates:
                candidates = [named, *(path for path in candidates if path != named)]
            else:
                logger.warning("%s names %s, which does not exist; looking for the newest one", pointer, named.name)
        for path in candidates:
            try:
                return path, read(path)
            except Exception as error:  # whatever torch raises about a damaged file
                if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek in a truncated file
                    raise
                logger.warning("%s is not readable (%s); trying an earlier one", path, _first_line(error))
        if candidates:
            raise InputError(
                f"{self.directory}: none of its {len(candidates)} checkpoints is readable; remove them to start anew"
            )
        return None, {}


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU, read without unpickling."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_model(model: nn.Module, path: str | Path, without: Sequence[str] = ()) -> None:
    """Load the raw model of a checkpoint that `Checkpointer` wrote.

    Args:
        model: has each parameter of the checkpoint's model, and no other.
        path: the file.
        without: beginnings of names in the checkpoint to leave out.

    Raises:
        InputError: when the file is missing, unreadable or of another model, or has no name that starts like one in
            `without`.
    """
    try:
        state = read(Path(path))["model"]
        if absent := [part for part in without if not any(name.startswith(part) for name in state)]:
            raise ValueError(f"train.init_without: it has no {absent[0]!r}")
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith(tuple(without))})
    except Exception as error:
        raise InputError(f"{path}: cannot be loaded as train.init_checkpoint ({_first_line(error)})") from error


def _iteration(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
