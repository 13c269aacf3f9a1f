"""COCO-Stuff from its official pixel maps to labels of 171 classes.

The maps (``stuffthingmaps_trainval2017.zip``) hold COCO's category ids less one, 0..181, of which 171 are in use: 80
things, and stuff from 91 on; 255 is unlabelled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clipself_d2.data.annotations import check_folder
from clipself_d2.data.labels import read_semantic_labels
from clipself_d2.errors import InputError

THING_IDS = tuple(category["id"] for category in COCO_CATEGORIES if category["isthing"])
"""COCO's 80, of 1..90."""

CLASS_IDS = (*THING_IDS, *range(92, 183))
"""The category ids of the 171 classes, in the order of their labels."""

UNLABELLED = 255


def stuff_labels(pixel_map: Tensor, source: str | Path) -> Tensor:
    """Labels 0..170 of a pixel map, 255 where it has none.

    Args:
        pixel_map: H x W long.
        source: the file's name, for the error.

    Raises:
        InputError: if a pixel has an id that is none of the 171 classes'.
    """
    table = torch.full((256,), -1)
    table[UNLABELLED] = UNLABELLED
    table[torch.tensor(CLASS_IDS) - 1] = torch.arange(len(CLASS_IDS))
    labels = torch.where(pixel_map < 256, table[pixel_map.clamp(0, 255)], -1)
    if len(wrong := pixel_map[labels < 0]):
        raise InputError(
            f"{source}: holds {int(wrong[0])}, which is no class of COCO-Stuff: use the pixel maps of "
            "stuffthingmaps_trainval2017.zip, not the 10k images' and not labels that were prepared already"
        )
    return labels


def prepare_coco_stuff(folder: str | Path, split: str) -> int:
    """Converts ``stuffthingmaps/{split}2017`` to ``stuffthingmaps_detectron2/{split}2017``.

    Args:
        folder: COCO's, such as ``datasets/coco``.
        split: "train" or "val".

    Returns:
        How many images there were.

    Raises:
        InputError: if files are missing, or are no pixel maps.
    """
    source = check_folder(Path(folder) / f"stuffthingmaps/{split}2017", "COCO-Stuff's pixel maps")
    files = sorted(source.glob("*.png"))
    if not files:
        raise InputError(f"{source}: holds no .png: unpack stuffthingmaps_trainval2017.zip into stuffthingmaps")
    target = Path(folder) / f"stuffthingmaps_detectron2/{split}2017"
    target.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, f"COCO-Stuff {split}", unit="image", delay=1):
        labels = stuff_labels(read_semantic_labels(file), file)
        Image.fromarray(labels.to(torch.uint8).numpy()).save(target / file.name)
    return len(files)
