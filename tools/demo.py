"""Distil the shipped miniature CLIP with CLIPSelf and show its dense features before and after: see --help."""

import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.miniature.demo import Demo

CONFIG = Path(__file__).parents[1] / "configs/miniature/clipself_patches.py"


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demonstration; returns the exit code."""
    parser = ArgumentParser(
        description="Distil the shipped miniature CLIP on OV-Shapes: a few minutes on two CPU cores. Writes "
        "results.json, kmeans.png and report.html (open it in a browser).",
        epilog="example: python tools/demo.py --output output/demo train.max_iter=200",
    )
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="where results go (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_args(argv)
    Demo(CONFIG, args.output, args.opts).run()


if __name__ == "__main__":
    sys.exit(main())
