"""Data sets by name: registering and reading them by way of Detectron2's catalogs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from clipself_d2.errors import InputError
from clipself_d2.schema import HOW_TO_GET

Records = list[dict[str, Any]]


def register(name: str, load: Callable[[], Records], **metadata: Any) -> None:
    """Register a data set.

    A registration may be repeated, since a process may read a config file more than once.

    Args:
        name: the new data set's name.
        load: gives Detectron2's dataset dicts. Two `functools.partial` of the same function and arguments are the same.
        metadata: for `MetadataCatalog`.

    Raises:
        InputError: if the name belongs to another data set.
    """
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name).as_dict()
        if _call(DatasetCatalog[name]) != _call(load) or any(known.get(k) != v for k, v in metadata.items()):
            raise InputError(f"data set {name!r} is already registered with other arguments: choose another name")
        return
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def _call(load: Callable[[], Records]) -> Any:
    return (load.func, load.args, load.keywords) if isinstance(load, partial) else load


def check_registered(name: str) -> None:
    """Raise InputError for a name that no data set has; register one that `data.by_path` made."""
    from clipself_d2.data.by_path import register_by_path  # which registers here

    if name not in DatasetCatalog and not register_by_path(name):
        raise InputError(f"data set {name!r} is not registered: see datasets/README.md for the names")


def metadata_of(name: str, key: str) -> Metadata:
    """Return the metadata of a data set, which is loaded if the key is missing: it may get its classes only then.

    Raises:
        InputError: if it is not registered, or lacks the key then too.
    """
    if key not in MetadataCatalog.get(name).as_dict():
        get_dataset(name)
    metadata = MetadataCatalog.get(name)
    if key not in metadata.as_dict():
        raise InputError(f"data set {name!r} has no {key} in its metadata: set them where it registers")
    return metadata


def get_dataset(dataset: str | Sequence[str | dict[str, Any]]) -> Records:
    """Read the records of a data set.

    Args:
        dataset: a registered name, several names (their records one after another), or the records themselves.

    Returns:
        A list of Detectron2 dataset dicts.

    Raises:
        InputError: if a name is not registered, its files are missing, or there are no records.
    """
    entries = [dataset] if isinstance(dataset, str) else list(dataset)
    records: Records = []
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
