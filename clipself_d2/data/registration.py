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
from clipself_d2.data.instances import load_instances
from clipself_d2.data.labels import load_semantic
from clipself_d2.data.voc import load_voc
from clipself_d2.vocabulary import ClassNames, check_vocabulary, class_names

Categories = Sequence[Mapping[str, Any]]
PathLike = str | Path


def _path(path: PathLike) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 (Path raises for an unknown user)


def register_image_list(name: str, json_file: PathLike | None, image_root: PathLike, **metadata: Any) -> None:
    """Register images for training; see `load_image_list` for the arguments."""
    files = {"image_root": _path(image_root), **({"json_file": _path(json_file)} if json_file else {})}
    register(name, partial(load_image_list, json_file and _path(json_file), _path(image_root)), **files, **metadata)


def register_captions(name: str, json_file: PathLike, image_root: PathLike, **metadata: Any) -> None:
    """Register captioned images for training; see `load_captioned_images` for the arguments."""
    files = {"json_file": _path(json_file), "image_root": _path(image_root)}
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
    are given, else when the data set is first loaded; then also ``thing_dataset_id_to_contiguous_id``.

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
    load = partial(_load_instances, name, _path(json_file), _path(image_root), listed, tuple(novel), training)
    if listed is not None:
        metadata["thing_classes"] = [spellings[0] for spellings in listed]
    if novel:
        metadata["novel_classes"] = list(novel)
    files = {"json_file": _path(json_file), "image_root": _path(image_root)}
    register(name, load, evaluator_type=evaluator_type, **files, **metadata)


def _load_instances(
    name: str,
    json_file: str,
    image_root: str,
    classes: Sequence[Sequence[str]] | None,
    novel: Sequence[str],
    training: bool,
) -> Records:
    records, index, names = load_instances(json_file, image_root, classes, novel=novel, training=training)
    MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=index)
    return records


def register_voc(name: str, folder: PathLike, split: str, classes: ClassNames) -> None:
    """Register a split of Pascal VOC; see `load_voc` for the arguments."""
    listed = check_vocabulary(classes)
    register(
        name,
        partial(load_voc, _path(folder), split, listed),
        thing_classes=[spellings[0] for spellings in listed],
        image_root=str(Path(_path(folder)) / "JPEGImages"),
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
    load = partial(_load_regions, name, _path(panoptic_json), _path(panoptic_root), _path(image_root), categories)
    if categories is not None:
        metadata |= _region_classes(sorted(categories, key=lambda c: c["id"]))
    register(name, load, image_root=_path(image_root), panoptic_json=_path(panoptic_json), **metadata)


def _load_regions(
    name: str, panoptic_json: str, panoptic_root: str, image_root: str, categories: Categories | None
) -> Records:
    records, ordered = load_panoptic(panoptic_json, panoptic_root, image_root, categories)
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
    if semantic_root is not None:
        metadata["sem_seg_root"] = _path(semantic_root)
    if instances_json is not None:
        metadata["json_file"] = _path(instances_json)
    register(
        name,
        partial(
            _load_panoptic,
            _path(panoptic_json),
            _path(panoptic_root),
            _path(image_root),
            categories,
            metadata.get("sem_seg_root"),
        ),
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={id_: number for id_, number in index.items() if id_ in things},
        stuff_dataset_id_to_contiguous_id={id_: number for id_, number in index.items() if id_ not in things},
        class_synonyms=[list(s) for s in synonyms],
        novel_classes=list(novel_classes),
        evaluator_type=evaluator_type,
        ignore_label=255,
        label_divisor=1000,
        image_root=_path(image_root),
        panoptic_json=_path(panoptic_json),
        panoptic_root=_path(panoptic_root),
        **metadata,
    )


def _load_panoptic(
    panoptic_json: str, panoptic_root: str, image_root: str, categories: Categories, semantic_root: str | None
) -> Records:
    records, _ = load_panoptic(panoptic_json, panoptic_root, image_root, categories)
    if semantic_root is not None:
        for record in records:
            record["sem_seg_file_name"] = str(Path(semantic_root, Path(record["pan_seg_file_name"]).name))
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
    register(
        name,
        partial(load_semantic, _path(image_root), _path(label_root), ignore_label),
        stuff_classes=class_names(synonyms),
        class_synonyms=[list(s) for s in synonyms],
        novel_classes=list(novel_classes),
        evaluator_type="sem_seg",
        ignore_label=ignore_label,
        image_root=_path(image_root),
        sem_seg_root=_path(label_root),
        **metadata,
    )
