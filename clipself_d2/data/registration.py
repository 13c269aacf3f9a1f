"""One function per kind of data set registers its files and classes under a name. Registering reads no file.

Each takes further metadata by keyword, see `register`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from clipself_d2.data.annotations import Records, load_captioned_images, load_image_list, load_panoptic
from clipself_d2.data.catalog import register
from clipself_d2.data.instances import load_instances, load_voc
from clipself_d2.data.labels import load_semantic
from clipself_d2.vocabulary import ClassNames, check_vocabulary, class_names

Categories = Sequence[Mapping[str, Any]]
PathLike = str | Path


def register_image_list(name: str, json_file: PathLike | None, image_root: PathLike, **metadata: Any) -> None:
    """Register images for training; see `load_image_list` for the arguments."""
    files = _paths(json_file=json_file, image_root=image_root)
    register(name, partial(load_image_list, files.get("json_file"), files["image_root"]), **files, **metadata)


def register_captions(name: str, json_file: PathLike, image_root: PathLike, **metadata: Any) -> None:
    """Register captioned images for training; see `load_captioned_images` for the arguments."""
    files = _paths(json_file=json_file, image_root=image_root)
    register(name, partial(load_captioned_images, **files), **files, **metadata)


def register_instances(
    name: str,
    json_file: PathLike,
    image_root: PathLike,
    classes: ClassNames | None = None,
    *,
    novel: Sequence[str] = (),
    training: bool = False,
    evaluator_type: str = "coco",
    **metadata: Any,
) -> None:
    """Register boxes (and masks) of objects, for detectors.

    The metadata gets ``thing_classes`` and, of an open-vocabulary data set, ``novel_classes``: at once if the classes
    are given, else when the data set is first loaded; then also ``thing_dataset_id_to_contiguous_id``,
    and ``region_classes`` and ``region_isthing`` for region classification.

    Args:
        name: the new data set's name.
        json_file: in COCO's or LVIS's format; see `load_instances`.
        image_root: the folder of the images.
        classes: the label space. Each class is its name, or a list of its name and other spellings; the json's
            categories are found in it by name. None: the json's categories in the order of their ids.
        novel: names of the classes that a detector is not trained on.
        training: leave out the objects of novel classes, then the images without objects. The json may lack classes.
        evaluator_type: Detectron2's, "coco" or "lvis".
        metadata: more of it.
    """
    listed = None if classes is None else check_vocabulary(classes)
    files = _paths(json_file=json_file, image_root=image_root)
    load = partial(_load_instances, name, **files, classes=listed, novel=tuple(novel), training=training)
    if listed is not None:
        metadata["thing_classes"] = [spellings[0] for spellings in listed]
    if novel:
        metadata["novel_classes"] = list(novel)
    register(name, load, evaluator_type=evaluator_type, **files, **metadata)


def _load_instances(name: str, **arguments: Any) -> Records:
    records, index, names = load_instances(**arguments)
    regions = {"region_classes": names, "region_isthing": [True] * len(names)}
    MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=index, **regions)
    return records


def register_voc(name: str, folder: PathLike, split: str, classes: ClassNames) -> None:
    """Register a split of Pascal VOC; see `load_voc` for the arguments."""
    listed, files = check_vocabulary(classes), _paths(folder=folder)
    register(
        name,
        partial(load_voc, **files, split=split, classes=listed),
        thing_classes=[spellings[0] for spellings in listed],
        image_root=f"{files['folder']}/JPEGImages",
        evaluator_type="coco",
    )


def register_panoptic_regions(
    name: str,
    panoptic_json: PathLike,
    panoptic_root: PathLike,
    image_root: PathLike,
    categories: Categories | None = None,
    **metadata: Any,
) -> None:
    """Register panoptic segments for region classification.

    The metadata gets ``region_classes`` (names) and ``region_isthing``: at once if categories are given, else when the
    data set is first loaded.

    Args:
        name: the new data set's name.
        panoptic_json: the segments, in COCO's format.
        panoptic_root: the folder of the panoptic PNGs.
        image_root: the folder of the images.
        categories: the classes (``id``, ``name``, ``isthing``), instead of the json's.
        metadata: more of it.
    """
    files = _paths(json_file=panoptic_json, png_root=panoptic_root, image_root=image_root)
    if categories is not None:
        metadata |= _region_classes(sorted(categories, key=lambda c: c["id"]))
    load = partial(_load_regions, name, **files, categories=categories)
    register(name, load, image_root=files["image_root"], panoptic_json=files["json_file"], **metadata)


def _load_regions(name: str, **arguments: Any) -> Records:
    records, ordered = load_panoptic(**arguments)
    MetadataCatalog.get(name).set(**_region_classes(ordered))
    return records


def _region_classes(categories: Categories) -> dict[str, Any]:
    return {
        "region_classes": [c["name"] for c in categories],
        "region_isthing": [bool(c["isthing"]) for c in categories],
    }


def register_panoptic(
    name: str,
    *,
    image_root: PathLike,
    panoptic_json: PathLike,
    panoptic_root: PathLike,
    categories: Categories,
    instances_json: PathLike | None = None,
    synonyms: Sequence[Sequence[str]],
    novel_classes: Sequence[str] = (),
    semantic_root: PathLike | None = None,
    evaluator_type: str = "coco_panoptic_seg",
    **metadata: Any,
) -> None:
    """Register a data set for panoptic, instance and semantic evaluation.

    Its metadata is that of Detectron2's panoptic evaluators, with things and stuff numbered in one order:
    ``thing_classes`` and ``stuff_classes`` both hold all names. ``class_synonyms`` and ``novel_classes`` are added.

    Args:
        name: the new data set's name.
        image_root: the folder of the images.
        panoptic_json: the segments, in COCO's format.
        panoptic_root: the folder of the panoptic PNGs.
        categories: the classes (``id``, ``isthing``) in the order of their ids.
        instances_json: the instances of the things, in COCO's format, with the same category and image ids. None: mask
            AP is not evaluated.
        synonyms: the names of each.
        novel_classes: names (`class_names`) of the classes that are not trained on.
        semantic_root: the folder of semantic label PNGs, named as the panoptic ones. None: the segments' labels.
        evaluator_type: Detectron2's.
        metadata: more of it.
    """
    names = class_names(synonyms)
    index = {category["id"]: number for number, category in enumerate(categories)}
    things = {category["id"] for category in categories if category["isthing"]}
    files = _paths(image_root=image_root, panoptic_json=panoptic_json, panoptic_root=panoptic_root)
    files |= _paths(json_file=instances_json, sem_seg_root=semantic_root)
    register(
        name,
        partial(_load_panoptic, files, categories),
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={id_: number for id_, number in index.items() if id_ in things},
        stuff_dataset_id_to_contiguous_id={id_: number for id_, number in index.items() if id_ not in things},
        class_synonyms=[list(s) for s in synonyms],
        novel_classes=list(novel_classes),
        evaluator_type=evaluator_type,
        ignore_label=255,
        label_divisor=1000,
        **files,
        **metadata,
    )


def _load_panoptic(files: Mapping[str, str], categories: Categories) -> Records:
    records, _ = load_panoptic(files["panoptic_json"], files["panoptic_root"], files["image_root"], categories)
    if "sem_seg_root" in files:
        for record in records:
            record["sem_seg_file_name"] = str(Path(files["sem_seg_root"], Path(record["pan_seg_file_name"]).name))
    return records


def register_semantic(
    name: str,
    *,
    image_root: PathLike,
    label_root: PathLike,
    synonyms: Sequence[Sequence[str]],
    novel_classes: Sequence[str] = (),
    ignore_label: int = 255,
    **metadata: Any,
) -> None:
    """Register a data set for semantic evaluation; see `load_semantic` for the files and `register_panoptic`."""
    files = _paths(image_root=image_root, sem_seg_root=label_root)
    register(
        name,
        partial(load_semantic, files["image_root"], files["sem_seg_root"], ignore_label),
        stuff_classes=class_names(synonyms),
        class_synonyms=[list(s) for s in synonyms],
        novel_classes=list(novel_classes),
        evaluator_type="sem_seg",
        ignore_label=ignore_label,
        **files,
        **metadata,
    )


def _paths(**paths: PathLike | None) -> dict[str, str]:
    """Those that are given, as texts, ~ being the home folder."""
    return {key: os.path.expanduser(path) for key, path in paths.items() if path is not None}  # noqa: PTH111
