"""Data sets named by their files, which nobody registers: a folder of images, or a json of objects with its images.

Their names are accepted wherever the name of a data set is: they are registered at their first use, in every process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import parse_qs, quote, unquote, urlencode

from clipself_d2.data.annotations import PathLike
from clipself_d2.data.instances import load_instances
from clipself_d2.data.registration import register_image_list, register_instances


def images_at(folder: PathLike) -> str:
    """Name the data set of all images in a folder and its subfolders: ``images:/data/photos``."""
    return f"images:{_quoted(folder)}"


def objects_at(
    json_file: PathLike,
    image_root: PathLike,
    *,
    classes_of: PathLike | None = None,
    novel: Sequence[str] = (),
    training: bool = False,
) -> str:
    """Name the data set of a json of objects: ``objects:/data/val.json?images=/data/photos&novel=cat``.

    Args:
        json_file: in COCO's format.
        image_root: the folder of its images.
        classes_of: the json whose categories are the classes. None: its own.
        novel: see `register_instances`.
        training: likewise.
    """
    options = {"images": _absolute(image_root), "novel": list(novel)}
    if classes_of is not None:
        options["classes"] = _absolute(classes_of)
    if training:
        options["training"] = "1"
    return f"objects:{_quoted(json_file)}?{urlencode(options, doseq=True, quote_via=quote, safe='/')}"


def register_by_path(name: str) -> bool:
    """Register the data set that `images_at` or `objects_at` names; return whether the name is such a one."""
    kind, _, rest = name.partition(":")
    path, _, query = rest.partition("?")
    options = parse_qs(query)
    if kind == "images":
        register_image_list(name, None, unquote(path))
        return True
    if kind == "objects" and "images" in options:
        [images] = options["images"]
        # The classes of another json are read now: the metadata has them from the start.
        classes = [load_instances(file, images)[2] for file in options.get("classes", ())]
        register_instances(
            name,
            unquote(path),
            images,
            classes[0] if classes else None,
            novel=options.get("novel", ()),
            training="training" in options,
        )
        return True
    return False


def _absolute(path: PathLike) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def _quoted(path: PathLike) -> str:
    return quote(_absolute(path))
