"""Distil the shipped miniature CLIP with CLIPSelf and show its dense features before and after: see --help."""

import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser
from clipself_d2.errors import InputError
from clipself_d2.miniature.demo import Demo
from clipself_d2.training.errors import RunError

CONFIG = Path(__file__).parents[1] / "configs/miniature/clipself_patches.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; exit code 0, 2 for wrong input, 1 for a run that had to stop."""
    parser = ArgumentParser(
        description="Distil the shipped miniature CLIP on OV-Shapes: a few minutes on two CPU cores. Writes "
        "results.json, kmeans.png and report.html (open it in a browser).",
        epilog="example: python tools/demo.py --output output/demo train.max_iter=200",
    )
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="where results go (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    try:
        args = parser.parse_args(argv)
        Demo(CONFIG, args.output, args.opts).run()
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command starts again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
