"""Make OV-COCO (48 base, 17 novel classes) and OV-LVIS (rare classes novel) from the official annotations.

Below the folder of data sets ($DETECTRON2_DATASETS, or ./datasets) these are read and written:
  ov_coco_train   coco/annotations/instances_train2017.json -> coco/zero-shot/instances_train2017_seen_2_65_cat.json
  ov_coco_val     coco/annotations/instances_val2017.json   -> coco/zero-shot/instances_val2017_all_2.json
  ov_lvis_train   lvis/lvis_v1_train.json                   -> lvis/lvis_v1_train_norare.json

ov_coco_train keeps the annotations of the base classes and the images that have one (107,761), ov_coco_val those of all
65 classes (4,836); ov_lvis_train loses the annotations of the 337 rare classes, and no image. With the whole official
files the numbers are checked; of a part of them they are told. Takes about ten times a file's size in memory: 5 GB for
COCO's, 11 GB for LVIS's.

Examples:
  python tools/make_splits.py                              # all whose official file is there
  python tools/make_splits.py ov_coco_train ov_coco_val
  python tools/make_splits.py ov_lvis_train --root /data
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data.annotations import read_json
from clipself_d2.data.splits import OUTPUTS, SOURCES, make_split
from clipself_d2.errors import InputError


def write_split(name: str, root: Path) -> None:
    """Makes one split below `root` and prints what it has."""
    source, output = root / SOURCES[name], root / OUTPUTS[name]
    if source.is_file():
        print(f"{name}: reading {source} ({source.stat().st_size / 1e6:.0f} MB)", flush=True)
    content = read_json(source)
    made = make_split(name, str(source), content)
    write_atomically(output, lambda file: _write_json(made, file, name))
    for field in ("images", "annotations"):
        print(f"{name}: {len(made[field]):,} of {len(content[field]):,} {field}")
    print(f"{name}: wrote {output}", flush=True)


def _write_json(content: dict[str, object], path: Path, name: str) -> None:
    """Piece by piece, so that neither memory nor patience is strained."""
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
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="the folder of data sets; default $DETECTRON2_DATASETS, else ./datasets",
    )
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
