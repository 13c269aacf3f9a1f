"""Arguments that several commands have."""

import argparse
from typing import Any

from clipself_d2.command_line import WORDS_HELP, ArgumentParser
from clipself_d2.errors import InputError


def add_clip(parser: Any, required: bool = False) -> None:
    """Add --clip and --pretrained, which name a CLIP and its weights, to a parser or a group of one."""
    parser.add_argument(
        "--clip",
        required=required,
        metavar="NAME",
        help=f"open_clip's name of {'the' if required else 'another'} CLIP, a JSON config, hf-hub:OWNER/NAME or "
        "local-dir:FOLDER",
    )
    parser.add_argument(
        "--pretrained",
        metavar="WEIGHTS",
        help="its weights: a tag, hf-hub:OWNER/NAME, local-dir:FOLDER, a file, or null (random); a repository's own, "
        "if --clip is one",
    )


def check_clip(args: argparse.Namespace) -> None:
    """Raise an InputError for one of --clip and --pretrained without the other; a repository has weights of its own."""
    args.pretrained = args.pretrained or own_weights(args.clip)
    if (args.clip is None) != (args.pretrained is None):
        raise InputError("--clip and --pretrained belong together: the name of a CLIP, and its weights")


def own_weights(clip: str | None) -> str | None:
    """What --pretrained is for a CLIP that brings its weights, a repository; None for others."""
    if clip is None:
        return None
    from clipself_d2.clip.formats import REPOSITORIES

    return "null" if clip.startswith(REPOSITORIES) else None


def words_parser(command: str, description: str | None, inputs: str) -> ArgumentParser:
    """Make the parser of a command that looks for words in files, with `inputs`, --words and --output.

    Args:
        command: its name, and that of its folder below output/.
        description: what it does.
        inputs: which files it takes.
    """
    parser = ArgumentParser(
        f"clipself {command}",
        description=description,
        epilog=WORDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="PATH", help=inputs)
    add("--words", required=True, help="what to look for, see below")
    add("--output", default=f"output/{command}", metavar="DIR", help="where results go (%(default)s)")
    return parser
