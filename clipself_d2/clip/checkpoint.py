"""Reading weights in every published format, and writing ours (open_clip safetensors with a JSON card)."""

import hashlib
import json
import os
import pickle
import re
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipself_d2.clip.formats import is_openai, match_text_names, to_open_clip, unwrap, uses_quick_gelu
from clipself_d2.errors import InputError


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read weights of any published format, with open_clip's names.

    Nothing is ever unpickled. A TorchScript archive (OpenAI's download) is read by ``torch.jit.load``, whose reader
    builds tensors and sandboxed script and cannot call Python; none of its methods are called.

    Args:
        path: ``.safetensors``, or a ``torch.save`` file of a state dict, alone or in a training checkpoint
            (``state_dict``, ``model``, ``module``), or a TorchScript archive.

    Returns:
        CPU tensors by name. EVA-02 names are timm's under ``visual.trunk.``. The text tower's stay where the file has
        them (at the top for CLIP, under ``text.`` for CustomTextCLIP); `load_checkpoint` moves them.

    Raises:
        InputError: a missing or truncated file, or one without weights.
    """
    return to_open_clip(_read_raw(Path(path)))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load weights of any published format into an open_clip model, strictly.

    Args:
        model: a whole open_clip model (image and text tower).
        path: see `read_checkpoint`.

    Raises:
        InputError: see `read_checkpoint`; weights of another model (the message names the missing, unexpected and
            wrongly shaped ones); OpenAI's weights for a model without QuickGELU.
    """
    raw = _read_raw(Path(path))
    if is_openai(raw) and not uses_quick_gelu(model):
        raise InputError(f"{path}: OpenAI's weights need QuickGELU: choose the model's '-quickgelu' name")
    expected = model.state_dict()
    state = match_text_names(to_open_clip(raw), expected)
    for key in ("logit_scale", "logit_bias"):  # scalar in some releases, one element in others
        if key in state and key in expected and state[key].numel() == expected[key].numel() == 1:
            state[key] = state[key].reshape(expected[key].shape)
    check_fit(state, expected, str(path))
    model.load_state_dict(state)


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
        OSError: the disk.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as safetensors, end the name in .safetensors")
    save_tensors(model_state, path)
    text = json.dumps(dict(card), indent=2, sort_keys=True) + "\n"
    write_atomically(path.with_suffix(".json"), lambda file: file.write_text(text, encoding="utf-8"))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one safetensors file atomically; OSError if the disk refuses."""
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        write_atomically(path, lambda file: save_file(content, file, metadata={"format": "pt"}))
    except SafetensorError as error:  # raised for a full disk
        raise OSError(f"{path}: {error}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same folder, flush it to the disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
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


def _read_raw(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return unwrap(load_file(path))
        if _is_torchscript(path):
            return unwrap(torch.jit.load(path, map_location="cpu").state_dict())
        return unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # the readers raise many kinds for a damaged or foreign file
        raise InputError(f"{path}: {_unreadable(error)}") from None


def _unreadable(error: Exception) -> str:
    """The message for a file that a reader refused."""
    text = "not a readable file of weights, truncated or of another kind"
    if not isinstance(error, pickle.UnpicklingError):
        return f"{text} ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})"
    if not re.search("Unsupported (global|class)", str(error)):  # not a pickle at all
        return text
    return (
        "holds other Python objects than tensors, which may run code and are not read: if you trust it, load it once "
        "with torch.load(FILE, weights_only=False) and save its state dict alone"
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
