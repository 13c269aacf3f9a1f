"""Write annotations in COCO's format, image by image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError


@dataclass
class Written:
    """The numbers of images, of images without a box, and of boxes in a file."""

    images: int = 0
    bare: int = 0
    boxes: int = 0


def write_annotations(
    path: str | Path,
    images: Iterable[tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]],
    head: Mapping[str, Any],
    if_empty: str,
) -> Written:
    """Stream annotations into a COCO-format json, which appears whole under its name or not at all.

    Args:
        path: the new file.
        images: samples (`image_id`, `file_name`, `height`, `width`), each with its annotations without `id` and
            `image_id`; see `box_fields`. An image without annotations is listed in `"images"` too.
        head: the fields that come first: `"info"`, `"categories"`.
        if_empty: the end of the error when there is no box at all, such as "has a proposal: lower the threshold".

    Returns:
        The counts.

    Raises:
        InputError: if there is no box at all.
        OSError: if the file cannot be written.
    """
    written = Written()

    def write(temporary: Path) -> None:
        listed = []
        with temporary.open("w", encoding="utf-8") as file:
            file.write(f'{json.dumps(dict(head))[:-1]}, "annotations": [')
            for sample, annotations in images:
                listed.append({key: sample[key] for key in ("height", "width")})
                listed[-1] |= {"id": sample["image_id"], "file_name": Path(sample["file_name"]).name}
                before = written.boxes
                for annotation in annotations:
                    written.boxes += 1
                    separator = ",\n" if written.boxes > 1 else "\n"
                    numbered = {"id": written.boxes, "image_id": sample["image_id"], **annotation}
                    file.write(separator + json.dumps(numbered))
                written.images += 1
                written.bare += written.boxes == before
            file.write(f'\n], "images": {json.dumps(listed)}}}\n')
        if not written.boxes:
            raise InputError(f"{path}: not written, none of {written.images} images {if_empty}")

    write_atomically(Path(path), write)
    return written


def box_fields(boxes: Tensor) -> list[dict[str, Any]]:
    """Return `bbox`, `area` and `iscrowd` of boxes (R x 4 `x0, y0, x1, y1` in pixels).

    Corners are rounded to hundredths of a pixel, which keeps them inside the image.
    """
    corners = (boxes.double() * 100).round() / 100
    sides = [(x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)) for x0, y0, x1, y1 in corners.tolist()]
    return [{"bbox": list(box), "area": round(box[2] * box[3], 2), "iscrowd": 0} for box in sides]
