"""Checkpoints for resuming: written atomically, read without unpickling, older ones as a fallback."""

from __future__ import annotations

import logging
import pickle
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
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


class Stateful(Protocol):
    """Anything that can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings, in dictionaries and lists."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore what `state_dict` gave."""


class Checkpointer:
    """Saves and restores the named parts of a run: `DIRECTORY/checkpoint_0000120.pth` after 120 iterations.

    A file appears under its name only when it is complete and on the disk; `last_checkpoint` holds the name of the
    newest. Rank 0 writes; every rank reads.

    Args:
        directory: where the files are; made when missing.
        max_to_keep: number of the newest checkpoints that stay, at least 1.
        parts: objects with `state_dict` and `load_state_dict`: model, optimiser, trainer.
    """

    def __init__(self, directory: str | Path, max_to_keep: int = 3, **parts: Stateful) -> None:
        self.directory = Path(directory)
        self.max_to_keep = max_to_keep
        self.parts = parts

    def save(self, iteration: int, *, required: bool = False) -> None:
        """Write the state after `iteration` finished iterations.

        A failure (a full disk) leaves the earlier checkpoints as they were, is logged, and the run goes on.

        Args:
            iteration: number of finished iterations.
            required: raise instead of going on: for the last checkpoint of a run.

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
        for old in self.checkpoints()[self.max_to_keep :]:
            old.unlink(missing_ok=True)

    def resume(self) -> int | None:
        """Restore the newest complete checkpoint on every rank.

        Returns:
            The number of finished iterations, or None when the directory holds no usable checkpoint.

        Raises:
            InputError: when the checkpoint belongs to another model or optimiser.
        """
        path, state = self._newest_readable() if comm.is_main_process() else (None, {})
        path = comm.all_gather(path)[0]
        if path is None:
            return None
        state = state or read(path)
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except _BROKEN as error:
                raise InputError(f"{path}: does not fit this config's {name} ({_first_line(error)})") from error
        logger.info("Resumed from %s", path)
        return int(state["iteration"])

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, newest first."""
        found = [path for path in self.directory.glob("checkpoint_*.pth") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem.split("_")[1]), reverse=True)

    def _newest_readable(self) -> tuple[Path | None, dict[str, Any]]:
        candidates = self.checkpoints()
        pointer = self.directory / POINTER
        if pointer.is_file():
            named = self.directory / pointer.read_text().strip()
            if named in candidates:
                candidates = [named, *(path for path in candidates if path != named)]
            else:
                logger.warning("%s names %s, which is not there; looking for the newest one", pointer, named.name)
        for path in candidates:
            try:
                return path, read(path)
            except _BROKEN as error:
                logger.warning("%s is not readable (%s); trying the one before", path, _first_line(error))
        return None, {}


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU, loaded without unpickling."""
    return torch.load(path, map_location="cpu", weights_only=True)


def load_model(model: nn.Module, path: str | Path, without: Sequence[str] = ()) -> None:
    """Load the raw model of a checkpoint that `Checkpointer` wrote.

    Args:
        model: has every part of the checkpoint's model, and no other, but for
        without: beginnings of names; what is called so is left out.

    Raises:
        InputError: when the file is missing, unreadable, or of another model, or has nothing of a name in `without`.
    """
    try:
        state = read(Path(path))["model"]
        if absent := [part for part in without if not any(name.startswith(part) for name in state)]:
            raise ValueError(f"train.init_without: it has no {absent[0]!r}")
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith(tuple(without))})
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be loaded as train.init_checkpoint ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
