"""Prepare COCO-Stuff for training and evaluating semantic segmentation with 171 classes.

Reads coco/stuffthingmaps/{train,val}2017 below the folder of data sets: the pixel maps of
stuffthingmaps_trainval2017.zip, which hold COCO's category ids less one (0..181, of which 171 are in use: 80 things,
and stuff from 91 on; 255 is unlabeled). Writes labels 0..170 and 255 to coco/stuffthingmaps_detectron2.

Examples:
  python datasets/prepare_coco_stuff.py
  python datasets/prepare_coco_stuff.py --root /data --splits val
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError

UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
"""COCO's ids that no class has, of 1..182."""

CLASS_IDS = tuple(id_ for id_ in range(1, 183) if id_ not in UNUSED_IDS)
"""The category ids of the 171 classes, in the order of their labels: 80 things, then stuff."""

UNLABELED = 255


def stuff_labels(pixel_map: np.ndarray, source: str | Path) -> np.ndarray:
    """Convert a pixel map to labels 0..170, or 255 where it has none.

    Args:
        pixel_map: H x W integers.
        source: the file's name, for errors.

    Returns:
        H x W uint8.

    Raises:
        InputError: if a pixel has an id that none of the 171 classes has.
    """
    table = np.full(int(pixel_map.max(initial=0)) + 256, -1)
    table[UNLABELED] = UNLABELED
    table[np.array(CLASS_IDS) - 1] = np.arange(len(CLASS_IDS))
    labels = table[pixel_map]
    if len(wrong := pixel_map[labels < 0]):
        raise InputError(
            f"{source}: holds {int(wrong[0])}, which is no class of COCO-Stuff: use the pixel maps of "
            "stuffthingmaps_trainval2017.zip, not the 10k images' and not labels that were prepared already"
        )
    return labels.astype(np.uint8)


def prepare_coco_stuff(folder: Path, split: str) -> int:
    """Convert the pixel maps of a split.

    Args:
        folder: COCO's, such as ``datasets/coco``.
        split: "train" or "val".

    Returns:
        The number of images.

    Raises:
        InputError: if files are missing, or are no pixel maps.
    """
    from clipself_d2.data.labels import read_semantic_labels

    source, target = folder / f"stuffthingmaps/{split}2017", folder / f"stuffthingmaps_detectron2/{split}2017"
    files = sorted(source.glob("*.png"))
    if not files:
        raise InputError(f"{source}: holds no .png: unpack stuffthingmaps_trainval2017.zip into stuffthingmaps")
    target.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, f"COCO-Stuff {split}", unit="image", delay=1):
        Image.fromarray(stuff_labels(read_semantic_labels(file).numpy(), file)).save(target / file.name)
    return len(files)


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    args = parser.parse_args(argv)
    for split in args.splits:
        print(f"COCO-Stuff {split}: {prepare_coco_stuff(args.root / 'coco', split)} images")


if __name__ == "__main__":
    sys.exit(main())
