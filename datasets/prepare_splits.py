"""Make OV-COCO (48 base, 17 novel classes) and OV-LVIS (rare classes novel) from the official annotations.

Below the folder of data sets ($DETECTRON2_DATASETS, or ./datasets) these are read and written:
  ov_coco_train   coco/annotations/instances_train2017.json -> coco/zero-shot/instances_train2017_seen_2_65_cat.json
  ov_coco_val     coco/annotations/instances_val2017.json   -> coco/zero-shot/instances_val2017_all_2.json
  ov_lvis_train   lvis/lvis_v1_train.json                   -> lvis/lvis_v1_train_norare.json

ov_coco_train keeps the annotations of the base classes and the images that have one (107,761), ov_coco_val those of all
65 classes (4,836). ov_lvis_train loses the annotations of the 337 rare classes, and no image. OVR-CNN and Detic made
theirs in the same way. With the whole official files the numbers are checked. Takes about ten times a file's size in
memory: 5 GB for COCO's, 11 GB for LVIS's.

Examples:
  python datasets/prepare_splits.py                              # all whose official file is there
  python datasets/prepare_splits.py ov_coco_train ov_coco_val
  python datasets/prepare_splits.py ov_lvis_train --root /data
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError

Content = dict[str, Any]

SOURCES = {
    "ov_coco_train": "coco/annotations/instances_train2017.json",
    "ov_coco_val": "coco/annotations/instances_val2017.json",
    "ov_lvis_train": "lvis/lvis_v1_train.json",
}
"""The official file that each split is made from."""

OUTPUTS = {
    "ov_coco_train": "coco/zero-shot/instances_train2017_seen_2_65_cat.json",
    "ov_coco_val": "coco/zero-shot/instances_val2017_all_2.json",
    "ov_lvis_train": "lvis/lvis_v1_train_norare.json",
}
"""Where each split is written: the names that OVR-CNN, F-ViT and Detic gave them."""

# Images of the official file, and of the split made from it.
_IMAGES = {"ov_coco_train": (118_287, 107_761), "ov_coco_val": (5_000, 4_836), "ov_lvis_train": (100_170, 100_170)}
_LVIS_FREQUENCIES = {"r": 337, "c": 461, "f": 405}


def make_split(name: str, source: str, content: Mapping[str, Any]) -> Content:
    """Make a split; see `ov_coco` and `ov_lvis`.

    Args:
        name: one of `SOURCES`.
        source: the file that the content was read from, for errors.
        content: the official json.

    Returns:
        The json of the split; entries are those of the content, unchanged.

    Raises:
        InputError: if the content is not in the official format, or is the whole official data set and gives another
            number of images than the split is known to have.
    """
    from clipself_d2.schema import Instances, check

    check(content, Instances, source)
    made = _MAKERS[name](source, content)
    official, expected = _IMAGES[name]
    if len(content["images"]) == official and len(made["images"]) != expected:
        raise InputError(
            f"{source}: gives {len(made['images'])} images where {name} has {expected}: download the file again"
        )
    return made


def ov_coco(source: str, content: Mapping[str, Any], *, base_only: bool) -> Content:
    """Keep the annotations of the 48 base classes, or of all 65, and the images that have one.

    Crowds count as annotations, as in OVR-CNN's files, whose numbers of images this reproduces. Training leaves them
    out, and evaluation ignores them. All 65 categories are listed, as in F-ViT's files.

    Raises:
        InputError: if one of the 65 classes is not in the file.
    """
    from clipself_d2.data.classes import OV_COCO, OV_COCO_BASE, names

    classes = set(names(OV_COCO))
    listed = [c for c in content["categories"] if c["name"] in classes]
    if missing := classes - {c["name"] for c in listed}:
        raise InputError(f"{source}: its 'categories' lack {sorted(missing)}: use COCO's own instances json")
    ids = {c["id"] for c in listed if not base_only or c["name"] in OV_COCO_BASE}
    annotations = [a for a in content["annotations"] if a["category_id"] in ids]
    used = {a["image_id"] for a in annotations}
    images = [image for image in content["images"] if image["id"] in used]
    return {**content, "images": images, "annotations": annotations, "categories": listed}


def ov_lvis(source: str, content: Mapping[str, Any]) -> Content:
    """Leave out the annotations of LVIS's rare classes. All images and all categories stay.

    Raises:
        InputError: if the categories have no frequency, or are not LVIS v1's.
    """
    frequency = {c["id"]: c.get("frequency") for c in content["categories"]}
    counts = {kind: list(frequency.values()).count(kind) for kind in _LVIS_FREQUENCIES}
    if counts != _LVIS_FREQUENCIES:
        raise InputError(
            f"{source}: its categories are {counts} by 'frequency', LVIS v1's {_LVIS_FREQUENCIES}: use "
            "lvis_v1_train.json"
        )
    return {**content, "annotations": [a for a in content["annotations"] if frequency.get(a["category_id"]) != "r"]}


_MAKERS: dict[str, Callable[[str, Mapping[str, Any]], Content]] = {
    "ov_coco_train": partial(ov_coco, base_only=True),
    "ov_coco_val": partial(ov_coco, base_only=False),
    "ov_lvis_train": ov_lvis,
}


def write_split(name: str, root: Path) -> None:
    """Make one split below `root` and print what it has."""
    from clipself_d2.clip.checkpoint import write_atomically
    from clipself_d2.schema import read_json

    source, output = root / SOURCES[name], root / OUTPUTS[name]
    if source.is_file():
        print(f"{name}: reading {source} ({source.stat().st_size / 1e6:.0f} MB)", flush=True)
    content = read_json(source, dict[str, Any])
    made = make_split(name, str(source), content)
    write_atomically(output, lambda file: _write_json(made, file, name))
    for field in ("images", "annotations"):
        print(f"{name}: {len(made[field]):,} of {len(content[field]):,} {field}")
    print(f"{name}: wrote {output}", flush=True)


def _write_json(content: Content, path: Path, name: str) -> None:
    """Write entry by entry, with progress and without a second copy in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        for number, (key, value) in enumerate(content.items()):
            file.write(f"{', ' * (number > 0)}{json.dumps(key)}: ")
            if isinstance(value, list):
                file.write("[")
                for index, entry in enumerate(tqdm(value, f"{name}: writing {key}", unit="", delay=1)):
                    file.write(f"{', ' * (index > 0)}{json.dumps(entry)}")
                file.write("]")
            else:
                file.write(json.dumps(value))
        file.write("}")


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "splits", nargs="*", metavar="SPLIT", help=f"of {', '.join(SOURCES)}; default: what is possible"
    )
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    args = parser.parse_args(argv)
    if unknown := set(args.splits) - set(SOURCES):
        raise InputError(f"unknown split {min(unknown)!r}: take some of {', '.join(SOURCES)}")
    splits = args.splits or [name for name, source in SOURCES.items() if (args.root / source).is_file()]
    if not splits:
        raise InputError(
            f"{args.root}: holds none of {', '.join(SOURCES.values())}: download them as datasets/README.md says, or "
            "name the folder that holds them with --root"
        )
    for name in dict.fromkeys(splits):
        write_split(name, args.root)


if __name__ == "__main__":
    sys.exit(main())
