"""The table of data sets: name -> how it is read and evaluated, its files and its classes.

Its rows are registered when `clipself_d2.data` is imported, below ``$DETECTRON2_DATASETS`` (default ``./datasets``),
with the files where datasets/README.md says; nothing is read before use. Detectron2 itself registers ``coco_2017_val``
and ``lvis_v1_val``. To add a data set, add a row to `builtin_datasets`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from clipself_d2.data.classes import (
    ADE20K_CATEGORIES,
    LVIS,
    LVIS_FREQUENCY,
    LVIS_NAMES,
    LVIS_RARE,
    OBJECTS365_V1,
    OBJECTS365_V2,
    OV_COCO,
    OV_COCO_NOVEL,
    VOC,
)
from clipself_d2.data.registration import (
    register_captions,
    register_image_list,
    register_instances,
    register_panoptic,
    register_panoptic_regions,
    register_semantic,
    register_voc,
)
from clipself_d2.vocabulary import class_names, label_set, seen_classes

# Detectron2 calls an LVIS class by its first synonym, which for one of them ("bull") is not its name.
_LVIS_METADATA: dict[str, Any] = {"class_frequency": LVIS_FREQUENCY, "prompt_classes": LVIS_NAMES}


def builtin_datasets(root: str | Path) -> dict[str, Callable[[str], None]]:
    """Return the table: by name, the function that registers the data set under the name it is called with.

    Args:
        root: the folder that holds the data sets.
    """
    root = Path(root)
    coco, lvis, voc = root / "coco", root / "lvis", root / "VOCdevkit/VOC2010"
    ade, ade_full = root / "ADEChallengeData2016", root / "ADE20K_2021_17_01"
    objects_v1, objects_v2 = root / "Objects365v1", root / "objects365"
    table: dict[str, Callable[[str], None]] = {
        # Images alone, for distillation. LVIS's are COCO's; its file names are "train2017/..." or "val2017/...".
        "coco_2017_train_images": partial(
            register_image_list,
            json_file=coco / "annotations/instances_train2017.json",
            image_root=coco / "train2017",
            captions_json=str(coco / "annotations/captions_train2017.json"),
        ),
        "coco_2017_unlabeled_images": partial(register_image_list, json_file=None, image_root=coco / "unlabeled2017"),
        "lvis_v1_train_images": partial(register_image_list, json_file=lvis / "lvis_v1_train.json", image_root=coco),
        # Objects. The open-vocabulary splits are written by datasets/prepare_splits.py.
        "ov_coco_train": partial(
            register_instances,
            json_file=coco / "zero-shot/instances_train2017_seen_2_65_cat.json",
            image_root=coco / "train2017",
            classes=OV_COCO,
            novel=OV_COCO_NOVEL,
            training=True,
        ),
        "ov_coco_val": partial(
            register_instances,
            json_file=coco / "zero-shot/instances_val2017_all_2.json",
            image_root=coco / "val2017",
            classes=OV_COCO,
            novel=OV_COCO_NOVEL,
        ),
        "ov_lvis_train": partial(
            register_instances,
            json_file=lvis / "lvis_v1_train_norare.json",
            image_root=coco,
            classes=LVIS,
            novel=LVIS_RARE,
            training=True,
            evaluator_type="lvis",
            **_LVIS_METADATA,
        ),
        # The jsons as they were published, or as F-ViT (v1) and Detic (v2) rewrote them.
        "objects365_v1_val": partial(
            register_instances,
            json_file=_existing(objects_v1 / "objects365_val.json", objects_v1 / "objects365_reorder_val.json"),
            image_root=objects_v1 / "val",
            classes=OBJECTS365_V1,
        ),
        "objects365_v2_val": partial(
            register_instances,
            json_file=_existing(
                objects_v2 / "annotations/zhiyuan_objv2_val.json",
                objects_v2 / "annotations/zhiyuan_objv2_val_fixname.json",
            ),
            image_root=objects_v2 / "val",
            classes=OBJECTS365_V2,
        ),
        # In place of Detectron2's, whose class names have no blanks and which does not mark difficult objects.
        "voc_2007_test": partial(register_voc, folder=root / "VOC2007", split="test", classes=VOC),
    }
    for split, folder in (("train", "training"), ("val", "validation")):
        coco_panoptic: dict[str, Any] = {
            "image_root": coco / f"{split}2017",
            "panoptic_json": coco / f"annotations/panoptic_{split}2017.json",
            # As the official archive unpacks, or as Detectron2 wants it.
            "panoptic_root": _existing(coco / f"annotations/panoptic_{split}2017", coco / f"panoptic_{split}2017"),
            "categories": COCO_CATEGORIES,
        }
        table |= {
            f"coco_2017_{split}_captions": partial(
                register_captions,
                json_file=coco / f"annotations/captions_{split}2017.json",
                image_root=coco / f"{split}2017",
            ),
            f"coco_2017_{split}_panoptic_regions": partial(register_panoptic_regions, **coco_panoptic),
            f"coco_2017_{split}_panoptic_ov": partial(
                register_panoptic,
                **coco_panoptic,
                instances_json=coco / f"annotations/instances_{split}2017.json",
                synonyms=label_set("coco_panoptic"),
            ),
            f"ade20k_{split}_panoptic_ov": partial(
                register_panoptic,
                image_root=ade / "images" / folder,
                panoptic_json=ade / f"ade20k_panoptic_{split}.json",
                panoptic_root=ade / f"ade20k_panoptic_{split}",
                instances_json=ade / f"ade20k_instance_{split}.json",
                semantic_root=ade / "annotations_detectron2" / folder,
                categories=ADE20K_CATEGORIES,
                **_classes("ade20k_150"),
            ),
            f"coco_stuff_171_{split}_sem_seg": partial(
                register_semantic,
                image_root=coco / f"{split}2017",
                label_root=coco / f"stuffthingmaps_detectron2/{split}2017",
                synonyms=label_set("coco_stuff_171"),
            ),
            f"ade20k_150_{split}_sem_seg": partial(
                register_semantic,
                image_root=ade / "images" / folder,
                label_root=ade / "annotations_detectron2" / folder,
                **_classes("ade20k_150"),
            ),
            f"ade20k_847_{split}_sem_seg": partial(
                register_semantic,
                image_root=ade_full / "images_detectron2" / folder,
                label_root=ade_full / "annotations_detectron2" / folder,
                ignore_label=65535,
                **_classes("ade20k_847"),
            ),
            f"pascal_context_59_{split}_sem_seg": partial(
                register_semantic,
                image_root=voc / "JPEGImages",
                label_root=voc / f"annotations_detectron2/pc59_{split}",
                **_classes("pascal_context_59"),
            ),
            f"pascal_context_459_{split}_sem_seg": partial(
                register_semantic,
                image_root=voc / "JPEGImages",
                label_root=voc / f"annotations_detectron2/pc459_{split}",
                ignore_label=65535,
                **_classes("pascal_context_459"),
            ),
        }
    return table


def register_builtin(root: str | Path) -> None:
    """Register the table below a folder, in place of data sets of the same names."""
    for name, register in builtin_datasets(root).items():
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
        register(name)
    MetadataCatalog.get("lvis_v1_val").set(novel_classes=LVIS_RARE, **_LVIS_METADATA)


def _existing(*paths: Path) -> Path:
    """Return the first path that exists, else the first."""
    return next((path for path in paths if path.exists()), paths[0])


def _classes(name: str) -> dict[str, Any]:
    """Return the classes of a label set; novel are those that COCO's 133 classes do not name."""
    synonyms = label_set(name)
    seen = seen_classes(label_set("coco_panoptic"), synonyms)
    novel = [n for n, is_seen in zip(class_names(synonyms), seen, strict=True) if not is_seen]
    return {"synonyms": synonyms, "novel_classes": novel}


register_builtin(os.environ.get("DETECTRON2_DATASETS", "datasets"))
