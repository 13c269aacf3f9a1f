"""OV-Shapes as registered data sets, drawn when one of them is first loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from clipself_d2.data import (
    register_captions,
    register_image_list,
    register_instances,
    register_panoptic,
    register_panoptic_regions,
)
from clipself_d2.miniature.captions import TEMPLATES
from clipself_d2.miniature.dataset import NOVEL, SPLITS, VERSION, categories, ensure_ov_shapes
from clipself_d2.miniature.world import CLASSES, THINGS, frequency

Records = list[dict[str, Any]]
_IGNORE_LABEL = 255


def register_ov_shapes(root: str | Path | None = None) -> None:
    """Register the data sets `ov_shapes_{train,val}*`, in place of earlier ones.

    - `ov_shapes_{split}`: objects of all 96 things. `ov_shapes_train_base` has those of base classes alone, in the
      scenes that have one: what an open-vocabulary detector may learn from.
    - `..._images`: the images alone. `..._captions`: with a sentence that names every segment.
    - `..._panoptic_regions`: 96 things and 8 kinds of stuff, for region classification.
    - `..._panoptic`, `..._semantic`: the same for segmentation. In `ov_shapes_train_semantic` novel classes have the
      ignored label, and nothing is learned from them.

    Args:
        root: the folder that holds, or will hold, the drawn data set; default $DETECTRON2_DATASETS, else ./datasets.
    """
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for name, register in _table(base / f"ov_shapes_{VERSION}").items():
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
        register(name, made_at_first_use=True)
        change = _hide_novel if name == "ov_shapes_train_semantic" else None
        DatasetCatalog[name] = partial(_draw_and_load, base, DatasetCatalog[name], change)


def _table(folder: Path) -> dict[str, Callable[..., None]]:
    table: dict[str, Callable[..., None]] = {}
    for split in SPLITS:
        instances = folder / f"annotations/instances_{split}.json"
        captions = folder / f"annotations/captions_{split}.json"
        panoptic: dict[str, Any] = {
            "image_root": folder / split,
            "panoptic_json": folder / f"annotations/panoptic_{split}.json",
            "panoptic_root": folder / f"panoptic_{split}",
            "categories": categories(),
        }
        classes: dict[str, Any] = {
            "instances_json": instances,
            "synonyms": [[name] for name in CLASSES],
            "novel_classes": NOVEL,
        }
        table |= {
            f"ov_shapes_{split}": partial(_register_things, json_file=instances, image_root=folder / split),
            f"ov_shapes_{split}_images": partial(
                register_image_list,
                json_file=instances,
                image_root=folder / split,
                captions_json=str(captions),
                caption_nouns="phrases",
                caption_templates=TEMPLATES,
            ),
            f"ov_shapes_{split}_captions": partial(register_captions, json_file=captions, image_root=folder / split),
            f"ov_shapes_{split}_panoptic_regions": partial(register_panoptic_regions, **panoptic),
            f"ov_shapes_{split}_panoptic": partial(register_panoptic, **panoptic, **classes),
            f"ov_shapes_{split}_semantic": partial(register_panoptic, **panoptic, **classes, evaluator_type="sem_seg"),
        }
    table["ov_shapes_train_base"] = partial(
        _register_things,
        json_file=folder / "annotations/instances_train.json",
        image_root=folder / "train",
        training=True,
    )
    return table


def _register_things(name: str, **arguments: Any) -> None:
    register_instances(
        name,
        classes=list(THINGS),
        novel=NOVEL,
        class_frequency=[frequency(i) for i in range(len(THINGS))],
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(THINGS))},
        **arguments,
    )


def _draw_and_load(root: Path, load: Callable[[], Records], change: Callable[[Records], Records] | None) -> Records:
    ensure_ov_shapes(root)
    return change(load()) if change else load()


def _hide_novel(records: Records) -> Records:
    """Give segments of novel classes the ignored label for a class."""
    novel = {number for number, name in enumerate(CLASSES) if name in NOVEL}
    for record in records:
        for segment in record["segments_info"]:
            if segment["category_id"] in novel:
                segment["category_id"] = _IGNORE_LABEL
    return records
