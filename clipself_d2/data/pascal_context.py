"""Pascal Context from the official annotations to the label images that evaluations read.

The annotations (``trainval.tar.gz``) hold a ``LabelMap`` an image: 1..459, or 0 where unlabelled. The 59 classes that
are commonly evaluated are 59 of these. The files that are written have the values that earlier projects use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat
from tqdm import tqdm

from clipself_d2.errors import InputError
from clipself_d2.vocabulary import label_set


def context_labels(label_map: np.ndarray, source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """From the official labels to those of the 459 and of the 59 classes.

    Args:
        label_map: H x W, 0..459.
        source: the file's name, for messages.

    Returns:
        H x W uint16, 0..458 or 65535, and H x W uint8, 0..58 or 255.

    Raises:
        InputError: if there are other labels.
    """
    if label_map.max(initial=0) > 459:
        raise InputError(f"{source}: has label {label_map.max()}, Pascal Context's go to 459: give its trainval folder")
    rows = {synonyms[0]: number for number, synonyms in enumerate(label_set("pascal_context_459"), 1)}
    to_59 = np.full(460, 255, dtype=np.uint8)
    to_59[[rows[synonyms[0]] for synonyms in label_set("pascal_context_59")]] = np.arange(59)
    return label_map.astype(np.uint16) - np.uint16(1), to_59[label_map]  # 0 wraps round to 65535


def prepare_pascal_context(folder: str | Path, split: str) -> int:
    """Writes ``annotations_detectron2/pc459_SPLIT`` (16-bit TIFF) and ``pc59_SPLIT`` (PNG).

    Reads ``trainval/*.mat`` and the split ``ImageSets/Main/SPLIT.txt`` below ``folder`` (VOCdevkit/VOC2010).

    Args:
        folder: the folder of VOC 2010.
        split: "train" (4,998 images) or "val" (5,105).

    Returns:
        How many images there were.

    Raises:
        InputError: if files are missing or do not fit.
    """
    root = Path(folder)
    names = root / "ImageSets/Main" / f"{split}.txt"
    if not names.is_file():
        raise InputError(f"{names}: there is no such list: download VOC 2010 as datasets/README.md says")
    files = [root / "trainval" / f"{name}.mat" for name in names.read_text().split()]
    files = [file for file in files if file.is_file()]  # VOC 2010 has more images than Pascal Context
    if not files:
        raise InputError(f"{root / 'trainval'}: holds no .mat of {names.name}: unpack Pascal Context's trainval.tar.gz")
    targets = [root / "annotations_detectron2" / f"{kind}_{split}" for kind in ("pc459", "pc59")]
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, f"Pascal Context {split}", unit="image", delay=1):
        try:
            label_map = loadmat(file)["LabelMap"]
        except (KeyError, ValueError, NotImplementedError) as error:
            raise InputError(f"{file}: has no LabelMap ({error}): unpack trainval.tar.gz anew") from error
        for labels, target, suffix in zip(context_labels(label_map, file), targets, (".tif", ".png"), strict=True):
            Image.fromarray(labels).save(target / f"{file.stem}{suffix}")
    return len(files)
