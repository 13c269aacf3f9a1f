"""The jsons that users give, as types, and the function that reads them. What is in a file but not here is ignored."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from clipself_d2.errors import InputError

HOW_TO_GET = "download it as datasets/README.md says, or set DETECTRON2_DATASETS to the folder that holds it"
"""How errors about a missing file end."""

T = TypeVar("T")

_REFUSALS = (msgspec.MsgspecError, ValueError, RecursionError)

Id = Annotated[int, Meta(ge=-(2**53), le=2**53)] | str
Pixels = Annotated[float, Meta(ge=-1e6, le=1e6)]
Side = Annotated[int, Meta(ge=1, le=100_000)]
Box = Annotated[list[Pixels], Meta(min_length=4, max_length=4)]
Flag = bool | Literal[0, 1] | None


class Image(Struct, gc=False):
    """An image; LVIS v1 has an address instead of a name."""

    id: Id
    file_name: str = ""
    coco_url: str = ""
    height: Side | None = None
    width: Side | None = None
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class RunLength(Struct, gc=False):
    """A mask, by the lengths of its runs, column by column: numbers, or COCO's compressed text."""

    size: Annotated[list[Side], Meta(min_length=2, max_length=2)]
    counts: list[Annotated[int, Meta(ge=0, le=2**31)]] | str


class Region(Struct, gc=False):
    """A box of an image; see `Annotation`."""

    image_id: Id
    bbox: Box


class Annotation(Region, gc=False):
    """An object: its box x, y, width, height in pixels, and perhaps its polygons (or one, flat) or its mask."""

    category_id: int
    id: Id | None = None
    area: float | None = None
    iscrowd: Flag = 0
    segmentation: list[list[Pixels] | Pixels] | RunLength | None = None


class Category(Struct, gc=False):
    """A class."""

    id: int
    name: str
    supercategory: str | None = None


class PanopticCategory(Category, gc=False, kw_only=True):
    """A class of things or of stuff."""

    isthing: bool | Literal[0, 1]


class Segment(Struct, gc=False):
    """A segment of a panoptic PNG."""

    id: Annotated[int, Meta(ge=0, lt=2**24)]
    category_id: int
    bbox: Box | None = None
    iscrowd: Flag = 0


class Segments(Struct, gc=False):
    """The segments of an image, and its PNG."""

    image_id: Id
    file_name: str
    segments_info: list[Segment]


class Caption(Struct, gc=False):
    """A caption of an image."""

    image_id: Id
    caption: str


class ImageList(Struct):
    """Images alone."""

    images: list[Image]


class Captions(Struct):
    """Captions alone."""

    annotations: list[Caption]


class CaptionedImages(ImageList):
    """Images and their captions."""

    annotations: list[Caption]


class Proposals(Struct):
    """Boxes, and perhaps the images."""

    annotations: list[Region]
    images: list[Image] | None = None


class Categories(Struct):
    """Classes alone."""

    categories: list[Category]


class NamedRegions(Categories):
    """Boxes with categories."""

    annotations: list[Annotation]


class Instances(ImageList):
    """Objects, in COCO's or LVIS's format."""

    annotations: list[Annotation]
    categories: list[Category]


class Panoptic(ImageList):
    """Panoptic segments; the categories may be given elsewhere."""

    annotations: list[Segments]
    categories: list[PanopticCategory] | None = None


C = TypeVar("C", bound=Category)


def read_json(path: str | Path, kind: type[T]) -> T:
    """Read a json file.

    Args:
        path: UTF-8, with or without a byte order mark.
        kind: the type of its content: one of those above, or any that msgspec decodes.

    Raises:
        InputError: a file that cannot be read, is no json, or is of another type. It names the record and the field.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}): {HOW_TO_GET}") from error
    return parse_json(data, kind, path)


def parse_json(data: bytes, kind: type[T], source: str | Path) -> T:
    """Decode the content of a json file; see `read_json`."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(data, type=kind)
    except _REFUSALS as error:
        problem: Exception = error
    content = _loads(data)
    if not isinstance(problem, msgspec.ValidationError) and content is not None:
        try:
            return msgspec.json.decode(json.dumps(content).encode(), type=kind)
        except _REFUSALS as error:
            problem = error
    if isinstance(problem, msgspec.ValidationError):
        raise InputError(f"{source}: {_place(content, str(problem))}: fix it") from problem
    raise InputError(f"{source}: is no json in UTF-8 ({problem}): export or download it again") from problem


def check(content: Any, kind: type[T], source: str | Path) -> T:
    """Convert decoded json; see `read_json`."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {_place(content, str(error))}: fix it") from error


def index_by_id(records: Iterable[Any], what: str, source: str | Path) -> dict[Any, Any]:
    """Index records by their ``id``, in their order.

    Raises:
        InputError: an id that is given twice.
    """
    index: dict[Any, Any] = {}
    for record in records:
        if (first := index.setdefault(record.id, record)) is not record:
            names = [getattr(x, "file_name", None) or getattr(x, "name", None) for x in (first, record)]
            of = f", to {names[0]!r} and {names[1]!r}" if any(names) else ""
            raise InputError(f"{source}: {what} id {record.id!r} is given twice{of}: give each its own")
    return index


def index_categories(categories: Iterable[C], source: str | Path) -> dict[int, C]:
    """Index categories by their ids, in ascending order.

    Raises:
        InputError: no category, or an id or a name that is given twice.
    """
    index = index_by_id(sorted(categories, key=lambda c: c.id), "category", source)
    if not index:
        raise InputError(f"{source}: 'categories' is empty: list the classes")
    of_name: dict[str, int] = {}
    for category in index.values():
        if (first := of_name.setdefault(category.name, category.id)) != category.id:
            raise InputError(
                f"{source}: categories {first} and {category.id} are both called {category.name!r}: rename one"
            )
    return index


def _loads(data: bytes) -> Any:
    """Decode with NaN and Infinity, which Python writes although json lacks them, as texts; None if it is no json."""
    try:
        return json.loads(data.decode(), parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _place(content: Any, error: str) -> str:
    """Say where msgspec's error is: "annotations[3] (id 7): 'bbox[1]' is None: expected float, got null"."""
    problem, _, path = error.replace("`", "").partition(" - at $")
    record, field = "", ""
    for name, position in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        field += f"[{position}]" if position else f".{name}" if field else name
        try:
            content = content[int(position) if position else name]
        except (TypeError, KeyError, IndexError):
            content = None
        if isinstance(content, dict):
            ids = [f" ({key} {content[key]!r})" for key in ("id", "image_id") if key in content]
            record, field = f"{record}{'.' * bool(record)}{field}{''.join(ids[:1])}", ""
    value = f"'{field}' is {repr(content)[:40]}" if field else ""
    problem = re.sub(r"Object missing required field (\w+)", r"has no '\1'", problem)
    return ": ".join(filter(None, [record, value, problem[:1].lower() + problem[1:]]))
