"""OV-Shapes for semantic segmentation: labels of base classes to train with, of all classes to evaluate with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from clipself_d2.data.annotations import load_panoptic
from clipself_d2.data.builtin_panoptic import panoptic_metadata
from clipself_d2.miniature.dataset import NOVEL, SPLITS, VERSION, categories, ensure_ov_shapes, register
from clipself_d2.miniature.world import CLASSES

_IGNORE_LABEL = 255


def register_ov_shapes_semantic(root: str | Path | None = None) -> None:
    """Registers `ov_shapes_train_semantic` and `ov_shapes_val_semantic`, drawn when first loaded.

    Both number all classes, things and stuff. In training what is novel has the ignored label, so that nothing is
    learned from it.

    Args:
        root: folder that holds, or will hold, the drawn data set; default $DETECTRON2_DATASETS, else ./datasets.
    """
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    folder = base / f"ov_shapes_{VERSION}"
    for split in SPLITS:
        name = f"ov_shapes_{split}_semantic"

        def load(split: str = split) -> list[dict[str, Any]]:
            ensure_ov_shapes(base)
            records = load_panoptic(
                folder / f"annotations/panoptic_{split}.json", folder / f"panoptic_{split}", folder / split
            )[0]
            return hide_novel(records) if split == "train" else records

        register(name, load)
        MetadataCatalog.get(name).set(
            **{
                **panoptic_metadata(categories(), [[name] for name in CLASSES], NOVEL),
                "evaluator_type": "sem_seg",
                "ignore_label": _IGNORE_LABEL,
            },
            image_root=str(folder / split),
            made_at_first_use=True,
        )


def hide_novel(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of `load_panoptic` whose segments of novel classes have the ignored label for a class."""
    novel = {number for number, name in enumerate(CLASSES) if name in NOVEL}

    def hidden(segment: dict[str, Any]) -> dict[str, Any]:
        return {**segment, "category_id": _IGNORE_LABEL} if segment["category_id"] in novel else segment

    return [{**record, "segments_info": [hidden(s) for s in record["segments_info"]]} for record in records]
