"""Prepare COCO-Stuff for training and evaluating semantic segmentation with 171 classes.

Reads `coco/stuffthingmaps` below the folder of data sets: the pixel maps of stuffthingmaps_trainval2017.zip.

Examples:
  python tools/prepare_coco_stuff.py
  python tools/prepare_coco_stuff.py --root /data --splits val
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data.coco_stuff import prepare_coco_stuff


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    args = parser.parse_args(argv)
    for split in args.splits:
        print(f"COCO-Stuff {split}: {prepare_coco_stuff(args.root / 'coco', split)} images")


if __name__ == "__main__":
    sys.exit(main())
