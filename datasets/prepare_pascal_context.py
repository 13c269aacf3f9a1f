"""Prepare Pascal Context for semantic evaluation with 59 and 459 classes.

Reads VOCdevkit/VOC2010 below the folder of data sets: the images and lists of VOC 2010, and in `trainval` the
annotations of Pascal Context, a LabelMap per image (1..459; 0 is unlabeled). The 59 classes that are commonly evaluated
are 59 of these. Writes annotations_detectron2/pc459_{train,val} (16-bit TIFF: 0..458, 65535 is ignored) and
pc59_{train,val} (PNG: 0..58, 255 is ignored), with the values that earlier projects use.

Examples:
  python datasets/prepare_pascal_context.py
  python datasets/prepare_pascal_context.py --root /data --splits val
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


def context_labels(label_map: np.ndarray, source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Convert the official labels to those of the 459 and of the 59 classes.

    Args:
        label_map: H x W, 0..459.
        source: the file's name, for errors.

    Returns:
        H x W uint16, 0..458 or 65535, and H x W uint8, 0..58 or 255.

    Raises:
        InputError: if there are other labels.
    """
    from clipself_d2.vocabulary import label_set

    if label_map.max(initial=0) > 459:
        raise InputError(f"{source}: has label {label_map.max()}, Pascal Context's go to 459: give its trainval folder")
    index = {synonyms[0]: number for number, synonyms in enumerate(label_set("pascal_context_459"), 1)}
    to_59 = np.full(460, 255, dtype=np.uint8)
    to_59[[index[synonyms[0]] for synonyms in label_set("pascal_context_59")]] = np.arange(59)
    return label_map.astype(np.uint16) - np.uint16(1), to_59[label_map]  # 0 wraps around to 65535


def prepare_pascal_context(folder: Path, split: str) -> int:
    """Convert the annotations of a split.

    Args:
        folder: that of VOC 2010.
        split: "train" (4,998 images) or "val" (5,105).

    Returns:
        The number of images.

    Raises:
        InputError: if files are missing or do not fit.
    """
    from scipy.io import loadmat

    names = folder / "ImageSets/Main" / f"{split}.txt"
    if not names.is_file():
        raise InputError(f"{names}: there is no such list: download VOC 2010 as datasets/README.md says")
    files = [folder / "trainval" / f"{name}.mat" for name in names.read_text().split()]
    files = [file for file in files if file.is_file()]  # VOC 2010 has more images than Pascal Context
    if not files:
        raise InputError(
            f"{folder / 'trainval'}: holds no .mat of {names.name}: unpack Pascal Context's trainval.tar.gz"
        )
    targets = [folder / "annotations_detectron2" / f"{kind}_{split}" for kind in ("pc459", "pc59")]
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, f"Pascal Context {split}", unit="image", delay=1):
        try:
            label_map = loadmat(file)["LabelMap"]
        except (KeyError, ValueError, NotImplementedError) as error:
            raise InputError(f"{file}: has no LabelMap ({error}): unpack trainval.tar.gz again") from error
        for labels, target, suffix in zip(context_labels(label_map, file), targets, (".tif", ".png"), strict=True):
            Image.fromarray(labels).save(target / f"{file.stem}{suffix}")
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
        count = prepare_pascal_context(args.root / "VOCdevkit/VOC2010", split)
        print(f"Pascal Context {split}: {count} images")


if __name__ == "__main__":
    sys.exit(main())
