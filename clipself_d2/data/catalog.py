"""Registering data sets with Detectron2's `DatasetCatalog`: one line a data set, nothing read before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from clipself_d2.data.annotations import HOW_TO_GET, load_image_list, load_panoptic
from clipself_d2.data.instances import load_instances
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import ClassNames, check_vocabulary

Categories = Sequence[Mapping[str, Any]]


def register_image_list(name: str, json_file: str | Path | None, image_root: str | Path) -> None:
    """Registers photographs for training; see `load_image_list` for the arguments."""
    DatasetCatalog.register(name, lambda: load_image_list(json_file, image_root))
    MetadataCatalog.get(name).set(image_root=str(image_root), **({"json_file": str(json_file)} if json_file else {}))


def register_panoptic_regions(
    name: str,
    json_file: str | Path,
    png_root: str | Path | Sequence[str | Path],
    image_root: str | Path,
    categories: Categories | None = None,
) -> None:
    """Registers panoptic segments for region classification.

    The metadata gets ``region_classes`` (names) and ``region_isthing``, at once if categories are given, else when the
    data set is first loaded.

    Args:
        name: the new data set's name.
        json_file: the panoptic json.
        png_root: the folder of the label PNGs, or several of which the first that exists is taken.
        image_root: the folder of the photographs.
        categories: the classes (``id``, ``name``, ``isthing``), instead of the json's.
    """
    roots = [png_root] if isinstance(png_root, (str, Path)) else list(png_root)

    def load() -> list[dict[str, Any]]:
        root = next((root for root in roots if Path(root).is_dir()), roots[0])
        records, ordered = load_panoptic(json_file, root, image_root, categories)
        _set_classes(name, ordered)
        return records

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(image_root=str(image_root), panoptic_json=str(json_file))
    if categories is not None:
        _set_classes(name, sorted(categories, key=lambda c: c["id"]))


def register_instances(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    classes: ClassNames | None = None,
    *,
    novel: Sequence[str] = (),
    training: bool = False,
    evaluator_type: str = "coco",
) -> None:
    """Registers boxes (and masks) of objects, for detectors.

    The metadata gets ``thing_classes`` and, of an open-vocabulary data set, ``novel_classes``, at once if the classes
    are given, else when the data set is first loaded; then also ``thing_dataset_id_to_contiguous_id``.

    Args:
        name: the new data set's name.
        json_file: in COCO's or LVIS's format; see `load_instances`.
        image_root: the folder of the photographs.
        classes: the label space, every class as its name or a list of its name and other spellings, in which the json's
            categories are found by name. None: the json's categories in the order of their ids.
        novel: names of the classes that a detector is not trained on.
        training: leaves out the objects of novel classes, then the images without objects; classes may be missing in
            the json.
        evaluator_type: for Detectron2: "coco" or "lvis".
    """
    listed = None if classes is None else check_vocabulary(classes)

    def load() -> list[dict[str, Any]]:
        records, index, names = load_instances(json_file, image_root, listed, novel=novel, training=training)
        MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=index)
        return records

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=str(json_file), image_root=str(image_root), evaluator_type=evaluator_type)
    if listed is not None:
        MetadataCatalog.get(name).thing_classes = [spellings[0] for spellings in listed]
    if novel:
        MetadataCatalog.get(name).novel_classes = list(novel)


def _set_classes(name: str, categories: Categories) -> None:
    MetadataCatalog.get(name).set(
        region_classes=[c["name"] for c in categories], region_isthing=[bool(c["isthing"]) for c in categories]
    )


def check_registered(name: str) -> None:
    """Raises InputError for a name that no data set has."""
    if name not in DatasetCatalog:
        raise InputError(f"data set {name!r} is not registered: see datasets/README.md for the names")


def metadata_of(name: str, key: str) -> Metadata:
    """The metadata of a data set. Where it lacks the key it is loaded, as it may tell its classes only then."""
    if key not in MetadataCatalog.get(name).as_dict():
        get_dataset(name)
    return MetadataCatalog.get(name)


def get_dataset(dataset: str | Sequence[str | dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a data set.

    Args:
        dataset: a registered name, several names (their records one after another), or the records themselves.

    Returns:
        A list of Detectron2 dataset dicts.

    Raises:
        InputError: if a name is not registered, its files are missing, or there are no records.
    """
    entries = [dataset] if isinstance(dataset, str) else list(dataset)
    records: list[dict[str, Any]] = []
    for entry in entries:
        if not isinstance(entry, str):
            records.append(entry)
            continue
        check_registered(entry)
        try:
            records.extend(DatasetCatalog.get(entry))
        except FileNotFoundError as error:  # of Detectron2's own loaders
            raise InputError(f"data set {entry!r}: {error.filename} is missing: {HOW_TO_GET}") from error
    if not records:
        raise InputError(f"data set {dataset!r} is empty: there is nothing to load")
    return records
