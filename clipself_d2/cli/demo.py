"""Distill the small CLIP that ships with the package, and show its dense map before and after, without any download.

It takes a few minutes on two CPU cores and writes results.json, kmeans.png and report.html (open it in a browser).
`clipself predict` looks for your words on your images.

Examples:
  clipself demo
  clipself demo --output output/demo train.max_iter=200
"""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import output_folder
from clipself_d2.command_line import ArgumentParser, announce, exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo; returns the exit code."""
    parser = ArgumentParser("clipself demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=output_folder, default="output/demo", metavar="DIR", help="where results go (%(default)s)"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="key=value", help="overrides of the config miniature/clipself_patches"
    )
    args = parser.parse_intermixed_args(argv)
    announce("CLIPSelf on the small CLIP that ships, in a few minutes")

    from clipself_d2.miniature.demo import run_demo

    run_demo("miniature/clipself_patches", str(args.output), args.opts)
