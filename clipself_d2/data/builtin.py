"""The data sets of the paper, registered when `clipself_d2.data` is imported.

They lie under ``$DETECTRON2_DATASETS`` (default ``./datasets``) as datasets/README.md shows; nothing is read before
use.
"""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from clipself_d2.data.captions import register_captions
from clipself_d2.data.catalog import register_image_list, register_panoptic_regions


def register_builtin(root: str | Path) -> None:
    """Registers the photographs, captions and panoptic regions of COCO 2017 and LVIS v1 below a folder."""
    root = Path(root)
    coco = root / "coco"
    register_image_list("coco_2017_train_images", coco / "annotations/instances_train2017.json", coco / "train2017")
    MetadataCatalog.get("coco_2017_train_images").captions_json = str(coco / "annotations/captions_train2017.json")
    register_image_list("coco_2017_unlabeled_images", None, coco / "unlabeled2017")
    # LVIS v1 shares COCO's photographs; its file names are "train2017/..." or "val2017/...".
    register_image_list("lvis_v1_train_images", root / "lvis/lvis_v1_train.json", coco)
    for split in ("train", "val"):
        register_captions(
            f"coco_2017_{split}_captions", coco / f"annotations/captions_{split}2017.json", coco / f"{split}2017"
        )
        register_panoptic_regions(
            f"coco_2017_{split}_panoptic_regions",
            coco / f"annotations/panoptic_{split}2017.json",
            # As the official archive unpacks, or as Detectron2 wants it.
            [coco / f"annotations/panoptic_{split}2017", coco / f"panoptic_{split}2017"],
            coco / f"{split}2017",
            categories=COCO_CATEGORIES,
        )


register_builtin(os.environ.get("DETECTRON2_DATASETS", "datasets"))
