"""The teacher's embeddings of crops on disk: each crop goes through the teacher once, over all epochs, ranks and runs.

The crops of an image are a finite set that the region sampler numbers: 361 grid cells, or the proposals of the image.
The cache of a data set is an array with one row per crop, in three files of a folder:

- ``cache.json``: what the array was made for: teacher, crop size, precision and data set. Any other use is refused.
- ``embeddings``: rows x C fp16 unit vectors. The rounding costs a cosine about 1e-7.
- ``checks``: rows x uint64, a hash of the row, the content of its image and the pixels of its crop.

A row counts only if its check fits; all others are computed again. This covers a process that is killed while it
writes, two processes that write the same row, an image or a proposal that changes, and a damaged disk.

A new row is rounded to fp16 too, which gives the same bits as reading it later. A run that finds a crop in the cache
may differ in rounding from one that computes the crop within another batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from clipself_d2.clip.checkpoint import content_hash, write_atomically
from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import build_test_loader, get_dataset
from clipself_d2.data.distillation import DistillationMapper
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import whole_boxes

logger = logging.getLogger(__name__)

RECIPE = "crop_and_resize 1"
"""Version of the crops: raise the number with every change of what `crop_and_resize` returns."""

_IMAGES = 8  # per batch while the cache is filled

Embed = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class TeacherCache:
    """Teacher embeddings in an array that any number of processes may read and write at once; see the module.

    Args:
        folder: the folder of the cache, on a disk that all ranks share; created if missing.
        budget_gb: largest size of a new cache, in gigabytes (1e9 bytes).

    Raises:
        InputError: a budget that is not positive.
    """

    def __init__(self, folder: str | Path, budget_gb: float = 50.0) -> None:
        if not budget_gb > 0:
            raise InputError(f"model.teacher_cache.budget_gb={budget_gb}: must be positive")
        self.folder = Path(folder)
        self.budget_gb = budget_gb
        self.full = False

    def attach(self, teacher: ImageTower, crop_size: int) -> None:
        """Set the teacher, whose weights must not change from now on, and the side of its crops in pixels."""
        pixel_stats = [teacher.pixel_mean.flatten().tolist(), teacher.pixel_std.flatten().tolist()]
        self.teacher = teacher
        self.made_for = {
            "recipe": RECIPE,
            "teacher": content_hash(teacher.state_dict(), f"{pixel_stats} {teacher!r}").hex(),
            "crop_size": crop_size,
            "embed_dim": teacher.embed_dim,
        }

    def open(self, dataset: str | Sequence[Any], mapper: DistillationMapper) -> None:
        """Open the array of a data set, or create it.

        Call this in the autocast context that the teacher will run in, because the header holds the precision.

        Args:
            dataset: see `get_dataset`.
            mapper: the mapper of training; its region sampler numbers the crops.

        Raises:
            InputError: the cache was made for something else or is damaged; a new one exceeds the budget or the free
                space of the disk; the folder cannot be written to; the data set is unknown or does not fit the mapper.
        """
        records = get_dataset(dataset)
        mapper.check(records)
        ids = [record["image_id"] for record in records]
        counts = [mapper.regions.num_crops(image_id) for image_id in ids]
        starts = np.cumsum([0, *counts]).tolist()
        self.starts = dict(zip((record["file_name"] for record in records), starts, strict=False))
        self.precision = _precision(self.teacher)
        header = {
            **self.made_for,
            "precision": self.precision,
            "crops": starts[-1],
            "images": len(records),
            "dataset": _hash(json.dumps([ids, counts]).encode()).hex(),
        }
        self._salt = _hash(json.dumps(header).encode())
        shape = (starts[-1], self.teacher.embed_dim)
        try:
            _prepare(self.folder, header, 1e9 * self.budget_gb)
            self._rows, self._row_file = _open(self.folder / "embeddings", "<f2", shape)
            self._checks, self._check_file = _open(self.folder / "checks", "<u8", shape[:1])
        except OSError as error:
            raise InputError(f"model.teacher_cache.folder: {error}: name another folder") from error

    def __len__(self) -> int:
        """Number of crops that have an embedding."""
        return int(np.count_nonzero(self._checks))

    def __call__(
        self, embed: Embed, images: Sequence[Tensor], boxes: Sequence[Tensor], samples: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Return the embeddings of crops, from the array where it has them.

        Args:
            embed: the teacher, called with the images and boxes of the missing crops, if any -> R x C unit vectors.
            images: 3 x H_i x W_i uint8, at least one.
            boxes: R_i x 4 in pixels of each image.
            samples: the ``file_name``, ``image_key`` and ``crop_ids`` (R_i) of each image, see `DistillationMapper`.

        Returns:
            sum(R_i) x C fp16 on the CPU, rounded unit vectors.
        """
        if self.precision != _precision(self.teacher):
            raise RuntimeError(f"{self.folder} was opened for {self.precision}, not for {_precision(self.teacher)}")
        boxes = [whole_boxes(box, *image.shape[-2:]) for image, box in zip(images, boxes, strict=True)]
        numbers = np.concatenate([self.starts[x["file_name"]] + x["crop_ids"].numpy() for x in samples])
        keys = [x["image_key"] + box.tobytes() for x, each in zip(samples, boxes, strict=True) for box in each.numpy()]
        rows = self._rows[numbers]
        missing = self._checks[numbers] != self._check(rows, keys)
        if missing.any():
            wanted = torch.from_numpy(missing).split([len(each) for each in boxes])
            some = [i for i, mask in enumerate(wanted) if mask.any()]
            new = embed([images[i] for i in some], [boxes[i][wanted[i]] for i in some]).half().cpu().numpy()
            rows[missing] = new
            self._write(numbers[missing], new, self._check(new, [keys[i] for i in np.flatnonzero(missing)]))
        return torch.from_numpy(rows)

    def fill(
        self, embed: Callable[..., object], dataset: str | Sequence[Any], mapper: DistillationMapper, num_workers: int
    ) -> None:
        """Embed every crop of a data set that training may draw.

        Ranks share the images. Crops that the cache has are not embedded again, which resumes a fill that was stopped.

        Args:
            embed: images, boxes, samples -> embeddings, by way of this cache: `CLIPSelf.embed_crops`.
            dataset: see `open`.
            mapper: see `open`.
            num_workers: number of processes that read images.

        Raises:
            InputError: see `open`.
        """
        self.open(dataset, mapper)
        records = get_dataset(dataset)
        # Interleaved, for each rank to have as much left after a stop.
        every = list(BatchSampler(range(len(records)), _IMAGES, drop_last=False))
        mine = every[comm.get_rank() :: comm.get_world_size()]
        loader = build_test_loader(records, mapper.all_crops, num_workers, batches=mine)
        with tqdm(loader, "teacher cache", unit_scale=_IMAGES, unit=" images", disable=comm.get_rank() > 0) as batches:
            for batch in batches:
                if self.full:
                    break
                embed([x["image"] for x in batch], [x["crop_boxes"].tensor for x in batch], batch)
        comm.synchronize()
        logger.info("%s: has %d of %d embeddings", self.folder, len(self), len(self._checks))

    def _check(self, rows: np.ndarray, keys: Sequence[bytes]) -> np.ndarray:
        """The check of each row: a hash of its bits, its key and the header."""
        hashes = (_hash(row, 8, key=key, salt=self._salt) for row, key in zip(rows, keys, strict=True))
        return np.frombuffer(b"".join(hashes), "<u8")

    def _write(self, numbers: np.ndarray, rows: np.ndarray, checks: np.ndarray) -> None:
        """Write rows, then their checks. Embeddings that overflow in fp16 are left out."""
        finite = np.isfinite(rows).all(axis=1)
        try:
            # Not through the memory map: there a full disk is a signal that kills the process.
            for number, row, check in zip(numbers[finite].tolist(), rows[finite], checks[finite], strict=True):
                os.pwrite(self._row_file.fileno(), row, number * row.nbytes)
                os.pwrite(self._check_file.fileno(), check, number * check.nbytes)
        except OSError as error:
            if not self.full:
                logger.warning("%s: nothing more is added (%s); what is there is used", self.folder, error.strerror)
            self.full = True


def open_teacher_cache(folder: str | None = None, budget_gb: float = 50.0) -> TeacherCache | None:
    """Return a `TeacherCache`, or None without a folder: what configs call."""
    return TeacherCache(folder, budget_gb) if folder else None


def _prepare(folder: Path, header: dict[str, Any], budget: float) -> None:
    """Create the files of a cache if missing, the header last; refuse files that are damaged or for another use."""
    path = folder / "cache.json"
    sizes = {"embeddings": 2 * header["crops"] * header["embed_dim"], "checks": 8 * header["crops"]}
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        need, free = sum(sizes.values()), shutil.disk_usage(folder).free
        if need > min(budget, free):
            limit = "its disk has" if free < budget else "model.teacher_cache.budget_gb is"
            raise InputError(
                f"{folder}: {header['crops']:,} crops take {need / 1e9:.3g} GB, {limit} {min(budget, free) / 1e9:.3g}: "
                "give more, or train without model.teacher_cache.folder"
            )
        for name, size in sizes.items():
            with (folder / name).open("ab") as file:
                file.truncate(size)  # a hole: disk space is taken row by row
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(header, indent=2)))
    try:
        found = json.loads(path.read_text())
        misfits = [f"{name} {found[name]}, not {value}" for name, value in header.items() if found[name] != value]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the header of a teacher cache ({error!r}): remove the folder") from error
    if misfits:
        raise InputError(f"{path}: made for {misfits[0]}: name another model.teacher_cache.folder, or remove this one")
    for name, size in sizes.items():
        if (length := (folder / name).stat().st_size) != size:
            raise InputError(f"{folder / name}: has {length} bytes instead of {size}, it is damaged: remove the folder")


def _open(path: Path, dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, BinaryIO]:
    """An array of a file for reading, and the file for writing."""
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)), path.open("r+b", buffering=0)


def _hash(content: Any, size: int = 16, key: bytes = b"", salt: bytes = b"") -> bytes:
    return hashlib.blake2b(content, digest_size=size, key=key, salt=salt).digest()


def _precision(teacher: ImageTower) -> str:
    """The floating-point type that the teacher runs in."""
    device = teacher.pixel_mean.device.type
    autocast = torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device) if autocast else teacher.pixel_mean.dtype)
