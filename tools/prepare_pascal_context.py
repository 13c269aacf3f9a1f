"""Prepare Pascal Context for semantic evaluation with 59 and 459 classes.

Reads VOCdevkit/VOC2010 below the folder of data sets: the photographs and lists of VOC 2010, and the annotations of
Pascal Context in `trainval`.

Examples:
  python tools/prepare_pascal_context.py
  python tools/prepare_pascal_context.py --root /data --splits val
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data.pascal_context import prepare_pascal_context


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the data sets (default {root})")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    args = parser.parse_args(argv)
    for split in args.splits:
        count = prepare_pascal_context(args.root / "VOCdevkit/VOC2010", split)
        print(f"Pascal Context {split}: {count} images")


if __name__ == "__main__":
    sys.exit(main())
