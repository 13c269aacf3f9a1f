"""The command `clipself`: each of its commands is a module here, whose `main` parses before it imports what is slow."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from clipself_d2 import __version__
from clipself_d2.command_line import ArgumentParser, exit_codes

COMMANDS = {
    "predict": "look for your words in images and videos",
    "heatmap": "show where in an image a CLIP sees each of your words",
    "segment": "give every pixel one of your words, by the text alone",
    "web": "open a page in the browser: your image, your words",
    "distill": "CLIPSelf: train a CLIP's dense map on a folder of images",
    "train": "train by a config, or a detector on your own boxes",
    "eval": "evaluate by a config, or a CLIP on your own boxes",
    "towers": "list the CLIPs that are taken, with their sizes",
    "embed": "write the text embeddings of your words",
    "export": "write a CLIP's dense encoder for ONNX or torch.export",
    "push": "push a CLIP, detector or segmenter to the Hugging Face hub",
    "convert": "convert CLIP weights of any published format",
    "proposals": "write region proposals of a trained detector for distillation",
    "region-text": "write pairs of region and noun, for region-text training",
    "save-masks": "save masks that another project predicted, for CLIP to score",
    "coherence": "measure how well a CLIP's patches tell objects and classes apart",
    "reproduce": "make the tables and figures of the paper (in a clone)",
    "demo": "distill the small CLIP that ships, and show the result",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in COMMANDS:
        code: int = command_module(argv[0]).main(argv[1:])
        return code
    return _explain(argv or ["--help"])


def command_module(command: str) -> Any:
    """The module of a command."""
    return import_module(f"clipself_d2.cli.{command.replace('-', '_')}")


@exit_codes()
def _explain(argv: Sequence[str]) -> None:
    """Print the list of commands, or refuse what is none."""
    parser = ArgumentParser(
        "clipself",
        description="CLIPSelf and open-vocabulary dense prediction with CLIP.",
        epilog="commands:\n"
        + "\n".join(f"  {name:13}{text}" for name, text in COMMANDS.items())
        + "\n\n`clipself COMMAND --help` has the options and examples of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of these")
    parser.add_argument("arguments", nargs="*", metavar="...", help="of the command")
    parser.parse_args(argv)
