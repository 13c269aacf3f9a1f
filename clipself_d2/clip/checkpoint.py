"""Reading weights in every published format, and writing ours (open_clip safetensors with a JSON card)."""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipself_d2.clip.archive import read_archive
from clipself_d2.clip.formats import POSITION_TABLES, is_openai, match_text_names, to_open_clip, unwrap, uses_quick_gelu
from clipself_d2.clip.positions import resize_position_embedding
from clipself_d2.errors import InputError, RunError

_HASH = "content_hash"  # the name of the hash in a safetensors file


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read weights of any published format, with open_clip's names.

    Nothing in the file is executed (see `read_archive`).

    Args:
        path: safetensors, or a ``torch.save`` file of a state dict, alone or in a training checkpoint (``state_dict``,
            ``model``, ``module``), or a TorchScript archive (OpenAI's download).

    Returns:
        CPU tensors by name. EVA-02 names are timm's under ``visual.trunk.``. The text tower's stay where the file has
        them (at the top for CLIP, under ``text.`` for CustomTextCLIP); `load_checkpoint` moves them.

    Raises:
        InputError: a missing, truncated or damaged file, or one without weights, or weights that are not finite.
    """
    state = to_open_clip(_read(Path(path)))
    if wrong := not_finite(state):
        raise InputError(f"{path}: {wrong}")
    return state


def load_checkpoint(model: nn.Module, path: str | Path, resize_positions: bool = False) -> None:
    """Load weights of any published format into an open_clip model, strictly.

    Args:
        model: a whole open_clip model (image and text tower).
        path: see `read_checkpoint`.
        resize_positions: resample the image tower's position table if it is of another image size.

    Raises:
        InputError: see `read_checkpoint`; weights of another model (the message names the missing, unexpected and
            wrongly shaped ones); OpenAI's weights for a model without QuickGELU.
    """
    raw = _read(Path(path))
    if is_openai(raw) and not uses_quick_gelu(model):
        raise InputError(f"{path}: OpenAI's weights need QuickGELU: choose the model's '-quickgelu' name")
    expected = model.state_dict()
    state = match_text_names(to_open_clip(raw), expected)
    for key in ("logit_scale", "logit_bias"):  # scalar in some releases, one element in others
        if key in state and key in expected and state[key].numel() == expected[key].numel() == 1:
            state[key] = state[key].reshape(expected[key].shape)
    _fit_positions(state, expected, str(path), resize_positions)
    check_fit(state, expected, str(path))
    if wrong := not_finite(state):
        raise InputError(f"{path}: {wrong}")
    model.load_state_dict(state)


def _fit_positions(state: dict[str, Tensor], expected: Mapping[str, Tensor], source: str, resize: bool) -> None:
    """Resample the image tower's position table in place, or tell how to, if only its size is another."""
    for key in POSITION_TABLES:
        if key not in state or key not in expected or state[key].shape == expected[key].shape:
            continue
        old, new = _map_side(state[key]), _map_side(expected[key])
        if not old or not new or state[key].shape[-1] != expected[key].shape[-1]:
            continue  # another model, of which `check_fit` tells
        if not resize:
            raise InputError(
                f"{source}: its positions are those of a map of {old} x {old}, the model's of {new} x {new}: name the "
                f"model of that image size, or resize them with tools/convert_checkpoint.py --resize-positions"
            )
        table = resize_position_embedding(state[key].flatten(0, -2), (old, old), (new, new))
        state[key] = table.reshape(expected[key].shape)


def _map_side(table: Tensor) -> int:
    """The side of the square map that a position table (``1 + side ** 2`` rows) belongs to; 0 if there is none."""
    if table.ndim < 2:
        return 0
    side = math.isqrt(max(0, table.shape[-2] - 1))
    return side if table.numel() == (side**2 + 1) * table.shape[-1] else 0


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Say which weights are NaN or infinite; "" if none is."""
    wrong = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    names = ", ".join(wrong[:4]) + (", ..." if len(wrong) > 4 else "")
    return f"{len(wrong)} of {len(state)} weights are not finite: {names}" if wrong else ""


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise one InputError that lists every mismatch between a state dict and a model's."""
    both = [key for key in expected if key in state]
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in both
            if state[key].shape != expected[key].shape
        ],
    }
    parts = [
        f"{len(keys)} {kind}: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}"
        for kind, keys in faults.items()
        if keys
    ]
    if parts:
        raise InputError(
            f"{source} does not fit the model named ({'; '.join(parts)}): name the model it was saved from"
        )


def save_checkpoint(model_state: Mapping[str, Tensor], path: str | Path, card: Mapping[str, Any]) -> None:
    """Write weights as safetensors, with a JSON card beside them.

    Each file is written atomically: after a full disk or a kill, an older file of the same name is intact.

    Args:
        model_state: state dict with open_clip's names, image and text tower.
        path: ``NAME.safetensors``; the card is ``NAME.json``.
        card: facts about the weights, such as source model, alpha, data, steps, metrics.

    Raises:
        InputError: a path that does not end in ``.safetensors``.
        RunError: weights that are not finite.
        OSError: the disk.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as safetensors, end the name in .safetensors")
    if wrong := not_finite(model_state):
        raise RunError(f"{path}: not written, {wrong}")
    save_tensors(model_state, path)
    text = json.dumps(dict(card), indent=2, sort_keys=True) + "\n"
    write_atomically(path.with_suffix(".json"), lambda file: file.write_text(text, encoding="utf-8"))


def read_card(path: Path) -> dict[str, Any]:
    """The card ``NAME.json`` of weights; its ``model`` is a name for `build_towers`.

    Raises:
        InputError: no such file, or one without ``model``.
    """
    try:
        card = dict(json.loads(path.read_text(encoding="utf-8")))
        if card["model"].endswith(".json"):
            card["model"] = str(path.parent / card["model"])
    except OSError as error:
        raise InputError(f"{path}: the card of the tower cannot be read ({error.strerror}): check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not the card of a tower, which has 'model': check the path") from error
    return card


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one safetensors file atomically, with a hash of its content; OSError if the disk refuses."""
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {_HASH: content_hash(content).hex()}  # one entry: safetensors writes several in random order
    try:
        write_atomically(path, lambda file: save_file(content, file, metadata))
    except SafetensorError as error:  # raised for a full disk
        raise OSError(f"{path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file, and compare the hash of its content where it has one.

    Raises:
        InputError: a truncated or damaged file. The message does not name the file.
    """
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get(_HASH)
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError(f"truncated, damaged or of another kind ({error}): download or save it again") from None
    if expected not in (None, content_hash(tensors).hex()):
        raise InputError("damaged: its values are not those that were written; download or save it again")
    return tensors


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same folder, flush it to the disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}{path.suffix}")  # a name has 255 bytes at most
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's umask; safetensors alone would keep its files from other users
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def content_hash(state: Mapping[str, Tensor], salt: str = "") -> bytes:
    """A 16-byte hash of a state dict's names, shapes and values, and of a text."""
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for key, value in sorted(state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def interpolate(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """``alpha * student + (1 - alpha) * teacher``, entry by entry (released code; the paper does not mention it).

    Integer entries (counters) are taken from the student.

    Raises:
        InputError: alpha outside 0..1, or states of different models.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}: it must lie in 0..1 (1 keeps the student, 0 the teacher)")
    check_fit(student, teacher, "the student's state")
    return {
        key: value.detach()
        if not value.is_floating_point()
        else torch.lerp(teacher[key].detach().to(value), value.detach(), alpha)
        for key, value in student.items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    """The weights of a file by the names that they have in it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(512)
    try:
        if problem := _not_weights(start):
            raise InputError(problem)
        return read_tensors(path) if start[8:9] == b"{" else unwrap(read_archive(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _not_weights(start: bytes) -> str:
    """What a file is that was saved in place of the weights, from its first bytes; "" for any other file."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "empty: download it again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights: run 'git lfs pull' in its repository, or download the file itself"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights: open its address in a browser and save the file behind the download button"
    return ""
