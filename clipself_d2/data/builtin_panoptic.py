"""The data sets of open-vocabulary segmentation, registered when `clipself_d2.data` is imported.

They lie under ``$DETECTRON2_DATASETS`` (default ``./datasets``) as datasets/README.md shows; nothing is read before
use. The metadata is that of Detectron2's panoptic evaluators, whose classes (things and stuff) are numbered in one
order: ``thing_classes`` and ``stuff_classes`` hold all names. Beyond it there are ``class_synonyms``, and
``novel_classes``: those that COCO's 133 classes do not name (`seen_classes`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from clipself_d2.data.ade20k import ade20k_categories
from clipself_d2.data.annotations import load_panoptic
from clipself_d2.data.panoptic import load_semantic
from clipself_d2.vocabulary import class_names, label_set, seen_classes


def register_panoptic(
    name: str,
    *,
    image_root: str | Path,
    panoptic_json: str | Path,
    panoptic_root: str | Path | Sequence[str | Path],
    instances_json: str | Path,
    categories: Sequence[Mapping[str, Any]],
    synonyms: Sequence[Sequence[str]],
    novel_classes: Sequence[str] = (),
    semantic_root: str | Path | None = None,
) -> None:
    """Registers a data set for panoptic, instance and semantic evaluation.

    Args:
        name: the new data set's name.
        image_root: the folder of the photographs.
        panoptic_json: the segments, in COCO's format.
        panoptic_root: the folder of the panoptic PNGs, or several of which the first that exists is taken.
        instances_json: the instances of the things, in COCO's format, with the same category and image ids.
        categories: the classes (``id``, ``isthing``) in the order of their ids.
        synonyms: the names of each.
        novel_classes: names (`class_names`) of those that are not to be trained on.
        semantic_root: the folder of semantic label PNGs, named as the panoptic ones. None: the segments tell.
    """
    roots = [panoptic_root] if isinstance(panoptic_root, (str, Path)) else list(panoptic_root)
    png_root = next((root for root in roots if Path(root).is_dir()), roots[0])

    def load() -> list[dict[str, Any]]:
        records, _ = load_panoptic(panoptic_json, png_root, image_root, categories)
        if semantic_root is not None:
            for record in records:
                record["sem_seg_file_name"] = str(Path(semantic_root) / Path(record["pan_seg_file_name"]).name)
        return records

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        **panoptic_metadata(categories, synonyms, novel_classes),
        image_root=str(image_root),
        panoptic_json=str(panoptic_json),
        panoptic_root=str(png_root),
        json_file=str(instances_json),
        **({} if semantic_root is None else {"sem_seg_root": str(semantic_root)}),
    )


def panoptic_metadata(
    categories: Sequence[Mapping[str, Any]], synonyms: Sequence[Sequence[str]], novel_classes: Sequence[str] = ()
) -> dict[str, Any]:
    """What evaluators and models ask of the metadata of a panoptic data set; see `register_panoptic`."""
    names = class_names(synonyms)
    number = {category["id"]: i for i, category in enumerate(categories)}
    things = {category["id"] for category in categories if category["isthing"]}
    return {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {id_: i for id_, i in number.items() if id_ in things},
        "stuff_dataset_id_to_contiguous_id": {id_: i for id_, i in number.items() if id_ not in things},
        "class_synonyms": [list(s) for s in synonyms],
        "novel_classes": list(novel_classes),
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
    }


def register_semantic(
    name: str,
    *,
    image_root: str | Path,
    label_root: str | Path,
    synonyms: Sequence[Sequence[str]],
    novel_classes: Sequence[str] = (),
    ignore_label: int = 255,
) -> None:
    """Registers a data set for semantic evaluation; see `load_semantic` for the files and `register_panoptic`."""
    DatasetCatalog.register(name, lambda: load_semantic(image_root, label_root, ignore_label))
    MetadataCatalog.get(name).set(
        stuff_classes=class_names(synonyms),
        class_synonyms=[list(s) for s in synonyms],
        novel_classes=list(novel_classes),
        evaluator_type="sem_seg",
        ignore_label=ignore_label,
        image_root=str(image_root),
        sem_seg_root=str(label_root),
    )


def register_builtin_panoptic(root: str | Path) -> None:
    """Registers COCO, ADE20K (150 and 847 classes) and Pascal Context (59 and 459) below a folder."""
    root = Path(root)
    coco, ade, full, voc = (
        root / p for p in ("coco", "ADEChallengeData2016", "ADE20K_2021_17_01", "VOCdevkit/VOC2010")
    )
    for split, folder in (("train", "training"), ("val", "validation")):
        register_panoptic(
            f"coco_2017_{split}_panoptic_ov",
            image_root=coco / f"{split}2017",
            panoptic_json=coco / f"annotations/panoptic_{split}2017.json",
            # As the official archive unpacks, or as Detectron2 wants it.
            panoptic_root=[coco / f"annotations/panoptic_{split}2017", coco / f"panoptic_{split}2017"],
            instances_json=coco / f"annotations/instances_{split}2017.json",
            categories=COCO_CATEGORIES,
            synonyms=label_set("coco_panoptic"),
        )
        register_panoptic(
            f"ade20k_{split}_panoptic_ov",
            image_root=ade / "images" / folder,
            panoptic_json=ade / f"ade20k_panoptic_{split}.json",
            panoptic_root=ade / f"ade20k_panoptic_{split}",
            instances_json=ade / f"ade20k_instance_{split}.json",
            categories=ade20k_categories(),
            synonyms=label_set("ade20k_150"),
            novel_classes=_novel("ade20k_150"),
            semantic_root=ade / "annotations_detectron2" / folder,
        )
        for labels, image_root, label_root, ignore_label in (
            ("ade20k_150", ade / "images" / folder, ade / "annotations_detectron2" / folder, 255),
            ("ade20k_847", full / "images_detectron2" / folder, full / "annotations_detectron2" / folder, 65535),
            ("pascal_context_59", voc / "JPEGImages", voc / f"annotations_detectron2/pc59_{split}", 255),
            ("pascal_context_459", voc / "JPEGImages", voc / f"annotations_detectron2/pc459_{split}", 65535),
        ):
            register_semantic(
                f"{labels}_{split}_sem_seg",
                image_root=image_root,
                label_root=label_root,
                synonyms=label_set(labels),
                novel_classes=_novel(labels),
                ignore_label=ignore_label,
            )


def _novel(name: str) -> list[str]:
    classes = label_set(name)
    seen = seen_classes(label_set("coco_panoptic"), classes)
    return [n for n, is_seen in zip(class_names(classes), seen, strict=True) if not is_seen]


register_builtin_panoptic(os.environ.get("DETECTRON2_DATASETS", "datasets"))
