"""The arguments that benchmarks share. It imports nothing slow: a script parses first."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from clipself_d2.command_line import ArgumentParser


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of every benchmark; `doc` is the script's docstring."""
    parser = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--batch", type=at_least(1), default=1, metavar="N", help="images at once (%(default)s)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="%(default)s")
    add(
        "--precision",
        default="bf16",
        choices=("bf16", "fp16", "fp32"),
        help="of ours (%(default)s); a reference is fp32",
    )
    add("--rounds", type=at_least(1), default=5, metavar="N", help="turns of each call (%(default)s)")
    add("--profile", action="store_true", help="name the ten kernels that take most of the time of ours")
    add("--output", type=Path, default=Path("output/benchmark"), metavar="DIR", help="%(default)s")
    return parser


def add_recipe(parser: argparse.ArgumentParser, config_file: str) -> None:
    """Add `--config-file` with a default below `configs`, and overrides."""
    path = Path(__file__).resolve().parents[1] / "configs" / config_file
    parser.add_argument("--config-file", type=Path, default=path, metavar="FILE", help=f"configs/{config_file}")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the recipe")


def add_size(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--size`, the side of `what` instead of the recipe's."""
    parser.add_argument("--size", type=int, metavar="PIXELS", help=f"side of {what} (the recipe's)")


def add_tower(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and `--compile`."""
    text = "a CLIP of open_clip, or the path of its config (%(default)s)"
    parser.add_argument("--model", default="EVA02-B-16", metavar="NAME", help=text)
    parser.add_argument("--compile", action="store_true", help="compile the blocks of ours, as train.compile=true does")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least `least`."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return int(text)

    return integer
