"""The teacher's embeddings of crops on disk: each crop goes through the teacher once, whatever runs, ranks and epochs.

The crops of a data set are a finite set: 361 grid cells of an image, or its proposals. An embedding is known by the
image's content, the whole-pixel box that is cut, and the precision that the teacher ran in; teachers (weights,
architecture, pixel statistics), crop sizes and `RECIPE` have a folder each.

Embeddings are stored as unit vectors in fp16, which costs a cosine about 1e-7. What has just been computed is rounded
alike, so a crop gives the same bits the first time and from the disk. A run that finds a crop in the cache need not see
the bits of a run that computes it in a batch of other crops; they differ by how matrix products round.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

from clipself_d2.clip.checkpoint import content_hash
from clipself_d2.clip.tower import ImageTower
from clipself_d2.data import build_test_loader, get_dataset
from clipself_d2.data.distillation import DistillationMapper, image_key
from clipself_d2.data.embedding_store import EmbeddingStore
from clipself_d2.errors import InputError
from clipself_d2.regions.crops import whole_boxes

logger = logging.getLogger(__name__)

RECIPE = "crop_and_resize 1"
"""Of the crops; the number rises with every change to what `crop_and_resize` gives."""

_IMAGES = 8  # read at once when the cache is filled

Embed = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


class TeacherCache:
    """Embeddings of crops by content; see the module, and `EmbeddingStore` for what several processes may do.

    Args:
        folder: where; the same for all ranks, on a disk that they share. Made where it is missing.
        budget_gb: most gigabytes (1e9 bytes) of it; a cache that is full adds nothing more, says so, and is used on.

    Raises:
        InputError: for a budget that is not positive.
    """

    def __init__(self, folder: str | Path, budget_gb: float = 50.0) -> None:
        if not budget_gb > 0:
            raise InputError(f"model.teacher_cache.budget_gb={budget_gb}: must be positive")
        self.folder = Path(folder)
        self.budget_gb = budget_gb

    def attach(self, teacher: ImageTower, size: int) -> None:
        """Opens the folder of a teacher and a crop size.

        Args:
            teacher: frozen; its weights must not change any more.
            size: side of the crops in pixels.

        Raises:
            InputError: if the folder cannot be written to, or holds embeddings of another length.
        """
        statistics = [teacher.pixel_mean.flatten().tolist(), teacher.pixel_std.flatten().tolist()]
        name = content_hash(teacher.state_dict(), f"{RECIPE} {size} {statistics} {teacher!r}").hex()
        self.teacher = teacher
        try:
            self.store = EmbeddingStore(self.folder, name, teacher.embed_dim, 1e9 * self.budget_gb)
        except InputError as error:
            raise InputError(f"model.teacher_cache.folder: {error}") from error

    def __call__(
        self, embed: Embed, images: Sequence[Tensor], boxes: Sequence[Tensor], image_keys: Sequence[bytes | None] = ()
    ) -> Tensor:
        """Embeddings of crops, from the cache where it has them.

        Args:
            embed: the teacher, called for the crops that are missing, if any: images and boxes -> R x C unit vectors.
            images: 3 x H_i x W_i uint8.
            boxes: for each image R_i x 4, in its pixels.
            image_keys: each stands for the content of an image, see `data.distillation.image_key`; where one is missing, the
                pixels are hashed.

        Returns:
            sum(R_i) x C fp16 on the CPU, rounded unit vectors.
        """
        boxes = [whole_boxes(each, *image.shape[-2:]) for image, each in zip(images, boxes, strict=True)]
        known = image_keys or [None] * len(images)
        of_image = [key or _hash_pixels(image) for key, image in zip(known, images, strict=True)]
        keys = _crop_keys(of_image, boxes, self._precision())
        rows, found = self.store.get(keys)
        if not found.all():
            first: dict[bytes, int] = {}
            for i in np.flatnonzero(~found):
                first.setdefault(keys[i], i)
            missing = np.zeros(len(keys), bool)
            missing[list(first.values())] = True
            wanted = torch.from_numpy(missing).split([len(each) for each in boxes])
            some = [i for i, mask in enumerate(wanted) if mask.any()]
            new = embed([images[i] for i in some], [boxes[i][wanted[i]] for i in some]).half().cpu().numpy()
            rows[missing] = new
            rows[~found] = rows[[first[keys[i]] for i in np.flatnonzero(~found)]]
            finite = np.isfinite(new).all(axis=1)  # a teacher that overflows in fp16 is not to be remembered
            self.store.add([key for key, sound in zip(first, finite, strict=True) if sound], new[finite])
        return torch.from_numpy(rows)

    def fill(
        self,
        embed: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[bytes]], object],
        dataset: str | Sequence[Any],
        mapper: DistillationMapper,
        num_workers: int,
    ) -> None:
        """Embeds every crop that may be drawn of a data set; ranks share the images, what is there is not done again.

        Args:
            embed: images, boxes and image keys -> embeddings, by way of this cache: `CLIPSelf.embed_crops`.
            dataset: see `get_dataset`.
            mapper: of training.
            num_workers: processes that read.

        Raises:
            InputError: if the data set is unknown or does not fit the mapper.
        """
        records = get_dataset(dataset)
        mapper.check(records)
        # Every so many-th image is a rank's, not one piece: of a fill that goes on each then has as much left.
        ranks = range(comm.get_world_size())
        records = [record for rank in ranks for record in records[rank :: len(ranks)]]
        loader = build_test_loader(records, mapper.all_crops, num_workers, _IMAGES)
        crops = 0
        with tqdm(loader, "teacher cache", unit_scale=_IMAGES, unit=" images", disable=comm.get_rank() > 0) as batches:
            for batch in batches:
                if self.store.full:
                    break
                boxes = [x["crop_boxes"].tensor for x in batch]
                embed([x["image"] for x in batch], boxes, [x["image_key"] for x in batch])
                crops += sum(map(len, boxes))
        self.flush()
        text = "%s: went through %d crops of this rank's images; holds %d embeddings"
        logger.info(text, self.store.folder, crops, len(self.store))
        comm.synchronize()

    def flush(self) -> None:
        """Writes to the disk what is still held in memory."""
        self.store.flush()

    def _precision(self) -> str:
        device = self.teacher.pixel_mean.device.type
        autocast = torch.is_autocast_enabled(device)
        return str(torch.get_autocast_dtype(device) if autocast else self.teacher.pixel_mean.dtype)


def open_teacher_cache(folder: str | None = None, budget_gb: float = 50.0) -> TeacherCache | None:
    """A `TeacherCache`, or None where no folder is named: what configs call."""
    return TeacherCache(folder, budget_gb) if folder else None


def _crop_keys(image_keys: Sequence[bytes], boxes: Sequence[Tensor], precision: str) -> list[bytes]:
    """16 bytes for each of sum(R_i) crops."""
    pairs = zip(image_keys, (each.numpy().astype("<i8") for each in boxes), strict=True)
    texts = (image + box.tobytes() for image, image_boxes in pairs for box in image_boxes)
    return [hashlib.blake2b(text, digest_size=16, key=precision.encode()).digest() for text in texts]


def _hash_pixels(image: Tensor) -> bytes:
    return image_key(image.cpu().contiguous().numpy().data, *image.shape[-2:])
