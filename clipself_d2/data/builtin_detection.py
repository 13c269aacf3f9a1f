"""The detection data sets of the paper, registered when `clipself_d2.data` is imported.

They lie under ``$DETECTRON2_DATASETS`` (default ``./datasets``) as datasets/README.md shows; nothing is read before
use. Detectron2 itself registers ``lvis_v1_val`` and ``coco_2017_val``.
"""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.data.catalog import register_instances
from clipself_d2.data.detection_classes import (
    LVIS,
    LVIS_FREQUENCY,
    LVIS_NAMES,
    LVIS_RARE,
    OBJECTS365_V1,
    OBJECTS365_V2,
    OV_COCO,
    OV_COCO_NOVEL,
    VOC,
    names,
)
from clipself_d2.data.instances import load_voc
from clipself_d2.data.splits import OUTPUTS


def register_detection(root: str | Path) -> None:
    """Registers OV-COCO, OV-LVIS, Objects365 v1 and v2, and Pascal VOC 2007 below a folder."""
    root = Path(root)
    coco = root / "coco"
    register_instances(
        "ov_coco_train",
        root / OUTPUTS["ov_coco_train"],
        coco / "train2017",
        OV_COCO,
        novel=OV_COCO_NOVEL,
        training=True,
    )
    register_instances("ov_coco_val", root / OUTPUTS["ov_coco_val"], coco / "val2017", OV_COCO, novel=OV_COCO_NOVEL)
    register_instances(
        "ov_lvis_train",
        root / OUTPUTS["ov_lvis_train"],
        coco,
        LVIS,
        novel=LVIS_RARE,
        training=True,
        evaluator_type="lvis",
    )
    MetadataCatalog.get("lvis_v1_val").novel_classes = LVIS_RARE
    for name in ("ov_lvis_train", "lvis_v1_val"):
        # Detectron2 calls a class by its first synonym, which for one of them ("bull") is not its name.
        MetadataCatalog.get(name).set(class_frequency=LVIS_FREQUENCY, prompt_classes=LVIS_NAMES)

    # The json as it was published, or as F-ViT (v1) and Detic (v2) rewrite it: classes are found by name in all.
    v1, v2 = root / "Objects365v1", root / "objects365"
    register_instances(
        "objects365_v1_val", _first(v1, "objects365_val.json", "objects365_reorder_val.json"), v1 / "val", OBJECTS365_V1
    )
    register_instances(
        "objects365_v2_val",
        _first(v2 / "annotations", "zhiyuan_objv2_val.json", "zhiyuan_objv2_val_fixname.json"),
        v2 / "val",
        OBJECTS365_V2,
    )
    _register_voc(root / "VOC2007")


def _first(folder: Path, *files: str) -> Path:
    return next((folder / file for file in files if (folder / file).is_file()), folder / files[0])


def _register_voc(folder: Path) -> None:
    """In place of Detectron2's, whose class names have no blanks and which does not tell difficult objects."""
    name = "voc_2007_test"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: load_voc(folder, "test", VOC))
    MetadataCatalog.get(name).set(
        thing_classes=names(VOC), image_root=str(folder / "JPEGImages"), evaluator_type="coco"
    )


register_detection(os.environ.get("DETECTRON2_DATASETS", "datasets"))
