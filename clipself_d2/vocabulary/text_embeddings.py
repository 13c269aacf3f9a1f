"""Files of text embeddings: ``.npy`` (rows in order) or ``.pt`` (name to vector)."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipself_d2.clip.archive import read_archive
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError, first_line


def load_text_embeddings(path: str | Path, names: Sequence[str], embed_dim: int) -> Tensor:
    """Read the embeddings of classes.

    Args:
        path: ``.npy``, one row per class in the order of ``names``; or ``.pt``, a dictionary from name to vector that
            may hold more names.
        names: the classes, as the file spells them.
        embed_dim: length of the image tower's embeddings.

    Returns:
        ``K x C`` fp32 unit vectors on the CPU.

    Raises:
        InputError: an unreadable file, another number of rows, an absent name, another length, a value that is not
            finite.
    """
    path = Path(path)
    rows = _read(path, names)
    if rows.ndim != 2 or rows.shape[1] != embed_dim:
        length = rows.shape[1] if rows.ndim == 2 else tuple(rows.shape)
        raise InputError(f"{path}: its text embeddings have length {length}, the image tower's {embed_dim}: same CLIP?")
    if not torch.isfinite(rows).all():
        raise InputError(f"{path}: it holds values that are not finite")
    return F.normalize(rows.float(), dim=-1)


def save_text_embeddings(rows: Tensor, names: Sequence[str], path: str | Path) -> None:
    """Write ``K x C`` rows, in the order of ``names`` (``.npy``) or by name (``.pt``), atomically.

    Raises:
        InputError: another suffix.
        OSError: the disk.
    """
    path, rows = Path(path), rows.detach().float().cpu()
    if path.suffix == ".npy":
        write_atomically(path, lambda file: np.save(file, rows.numpy()))
    elif path.suffix == ".pt":
        content = dict(zip(names, rows.clone().unbind(), strict=True))
        write_atomically(path, lambda file: torch.save({name: row.clone() for name, row in content.items()}, file))
    else:
        raise InputError(f"{path}: text embeddings are written as .npy (rows) or .pt (name to vector)")


def _read(path: Path, names: Sequence[str]) -> Tensor:
    if path.suffix not in (".npy", ".pt", ".pth"):
        raise InputError(f"{path}: text embeddings are read from .npy (rows) or .pt (name to vector)")
    if not path.is_file():
        raise InputError(f"{path}: no such file of text embeddings")
    try:
        if path.suffix == ".npy":
            rows = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            content = {name: torch.as_tensor(row).flatten() for name, row in read_archive(path).items()}
    except Exception as error:  # damaged files raise many kinds
        raise InputError(f"{path}: not a readable file of text embeddings ({first_line(error)})") from None
    if path.suffix == ".npy":
        if len(rows) != len(names):
            raise InputError(f"{path}: it holds {len(rows)} rows for {len(names)} classes")
        return rows
    if absent := [name for name in names if name not in content]:
        near = difflib.get_close_matches(absent[0], content, n=3)
        hint = f"; near ones are {', '.join(near)}" if near else ""
        raise InputError(f"{path}: {len(absent)} of {len(names)} classes are absent, first '{absent[0]}'{hint}")
    if len({len(content[name]) for name in names}) > 1:
        raise InputError(f"{path}: its vectors are not all of one length")
    return torch.stack([content[name] for name in names])
