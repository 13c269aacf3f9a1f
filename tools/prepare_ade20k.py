"""Prepare ADE20K for panoptic, instance and semantic evaluation.

Converts what is there below the folder of data sets:
  ADEChallengeData2016/      Scene Parsing, 150 classes: semantic labels from `annotations`; panoptic segments and
                             instances too, where `annotations_instance` is
  ADE20K_2021_17_01/         the full data set: photographs and labels of 847 classes

Examples:
  python tools/prepare_ade20k.py
  python tools/prepare_ade20k.py --root /data --splits val
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data.ade20k import SPLITS, prepare_full, prepare_scene_parsing
from clipself_d2.errors import InputError

PARTS = {"ADEChallengeData2016": prepare_scene_parsing, "ADE20K_2021_17_01": prepare_full}


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: train val")
    args = parser.parse_args(argv)
    there = [name for name in PARTS if (args.root / name).is_dir()]
    if not there:
        raise InputError(f"{args.root}: has none of {', '.join(PARTS)}: download them as datasets/README.md says")
    for name in there:
        for split in args.splits:
            print(f"{name} {split}: {PARTS[name](args.root / name, split)} images")


if __name__ == "__main__":
    sys.exit(main())
