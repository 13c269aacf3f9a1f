"""COCO-Stuff with 171 classes, registered when `clipself_d2.data` is imported: what CAT-Seg is trained on.

The other semantic data sets are those of `builtin_panoptic`.
"""

from __future__ import annotations

import os
from pathlib import Path

from clipself_d2.data.builtin_panoptic import register_semantic
from clipself_d2.vocabulary import label_set


def register_builtin_semantic(root: str | Path) -> None:
    """Registers `coco_2017_train_stuff_all_sem_seg` and `coco_2017_val_stuff_all_sem_seg` below a folder."""
    coco = Path(root) / "coco"
    for split in ("train", "val"):
        register_semantic(
            f"coco_2017_{split}_stuff_all_sem_seg",
            image_root=coco / f"{split}2017",
            label_root=coco / f"stuffthingmaps_detectron2/{split}2017",
            synonyms=label_set("coco_stuff_171"),
        )


register_builtin_semantic(os.environ.get("DETECTRON2_DATASETS", "datasets"))
