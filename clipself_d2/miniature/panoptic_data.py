"""OV-Shapes for panoptic segmentation: things and stuff with COCO's metadata, registered with Detectron2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from clipself_d2.data.annotations import load_panoptic
from clipself_d2.data.builtin_panoptic import panoptic_metadata
from clipself_d2.miniature.dataset import NOVEL, SPLITS, VERSION, categories, ensure_ov_shapes, register
from clipself_d2.miniature.world import CLASSES


def register_ov_shapes_panoptic(root: str | Path | None = None) -> None:
    """Registers `ov_shapes_train_panoptic` and `ov_shapes_val_panoptic`, drawn when first loaded.

    Both hold all classes; a model that is to know the base classes only leaves ``novel_classes`` out of its training.

    Args:
        root: folder that holds, or will hold, the drawn data set; default $DETECTRON2_DATASETS, else ./datasets.
    """
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    folder = base / f"ov_shapes_{VERSION}"
    for split in SPLITS:
        name = f"ov_shapes_{split}_panoptic"
        files = {
            "panoptic_json": folder / f"annotations/panoptic_{split}.json",
            "panoptic_root": folder / f"panoptic_{split}",
            "image_root": folder / split,
        }

        def load(files: dict[str, Path] = files) -> list[dict[str, Any]]:
            ensure_ov_shapes(base)
            return load_panoptic(files["panoptic_json"], files["panoptic_root"], files["image_root"])[0]

        register(name, load)
        MetadataCatalog.get(name).set(
            **panoptic_metadata(categories(), [[name] for name in CLASSES], NOVEL),
            **{key: str(path) for key, path in files.items()},
            json_file=str(folder / f"annotations/instances_{split}.json"),
            made_at_first_use=True,
        )
