"""Arguments that several commands have, and types that check arguments before the slow imports."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

from clipself_d2.command_line import WORDS_HELP, ArgumentParser, config_name
from clipself_d2.errors import InputError
from clipself_d2.files import IMAGE_SUFFIXES, REPOSITORIES, find_images
from clipself_d2.vocabulary import read_vocabulary


def existing_file(text: str) -> Path:
    """A file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"{text}: there is no such file: check the path")
    return path


def existing_folder(text: str) -> Path:
    """A folder that is there."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise InputError(f"{text}: there is no such folder: check the path")
    return path


def image_folder(text: str) -> Path:
    """A folder with at least one image, perhaps in a subfolder."""
    path = existing_folder(text)
    if not find_images(path):
        raise InputError(f"{text}: holds no images ({' '.join(sorted(IMAGE_SUFFIXES))}): check the path")
    return path


def output_folder(text: str) -> Path:
    """A folder that is there or can be made, and written to."""
    folder = Path(text).expanduser()
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "is not writable" if above.is_dir() else "is a file"
        raise InputError(f"{text}: nothing can be written there, {above} {reason}: name another place")
    return folder


def output_file(text: str) -> Path:
    """A file that can be written."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise InputError(f"{text}: is a folder: name a file")
    output_folder(str(path.parent))
    return path


def new_file(text: str) -> Path:
    """A file that can be written and is not there."""
    path = output_file(text)
    if path.exists():
        raise InputError(f"{text}: exists already; remove it, or name another")
    return path


def checkpoint(text: str) -> str:
    """A `checkpoint_*.pth` that is there; "null" for none."""
    return text if text in ("", "null") else str(existing_file(text))


def clip_name(text: str) -> str:
    """The name of a CLIP; a JSON config has to be there."""
    if text.endswith(".json"):
        existing_file(text)
    return text


def clip_weights(text: str) -> str:
    """Weights of a CLIP; what can only be a file has to be there."""
    if not text.startswith(REPOSITORIES) and re.search(r"/|\.(safetensors|pth?|bin|ckpt)$", text):
        existing_file(text)
    return text


def port(text: str) -> int:
    """A number that a port can have."""
    if not text.isdecimal() or int(text) > 65535:
        raise InputError(f"{text}: a port is a number of 0 to 65535")
    return int(text)


def add_clip(parser: Any, required: bool = False) -> None:
    """Add --clip and --pretrained, which name a CLIP and its weights, to a parser or a group of one."""
    parser.add_argument(
        "--clip",
        required=required,
        type=clip_name,
        metavar="NAME",
        help=f"open_clip's name of {'the' if required else 'another'} CLIP, a JSON config, hf-hub:OWNER/NAME or "
        "local-dir:FOLDER",
    )
    parser.add_argument(
        "--pretrained",
        type=clip_weights,
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
    return "null" if clip and clip.startswith(REPOSITORIES) else None


def add_trained(parser: argparse.ArgumentParser, what: str, required: bool = False) -> None:
    """Add --config-file and --weights, which name a trained model, to a parser.

    Args:
        parser: of a command.
        what: the model is, and what it is by default.
        required: whether --config-file is.
    """
    add = parser.add_argument
    help_config = f"the config, its path or name, of {what}"
    add("--config-file", type=config_name, required=required, metavar="FILE", help=help_config)
    help_weights = "its checkpoint_*.pth (default: the newest, if the config trains), or null"
    add("--weights", type=checkpoint, default="", metavar="FILE", help=help_weights)


def words_parser(command: str, description: str | None, inputs: str, usual_format: str) -> ArgumentParser:
    """Make the parser of a command that looks for words in files, with `inputs`, --words, --output and --format.

    Args:
        command: its name, and that of its folder below output/.
        description: what it does.
        inputs: which files it takes.
        usual_format: of the images that it writes.
    """
    parser = ArgumentParser(
        f"clipself {command}",
        description=description,
        epilog=WORDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="PATH", help=inputs)
    add("--words", type=read_vocabulary, required=True, help="what to look for, see below")
    add(
        "--output",
        type=output_folder,
        default=f"output/{command}",
        metavar="DIR",
        help="where results go (%(default)s)",
    )
    formats = (usual_format, "pdf", "svg")
    add("--format", choices=formats, default=usual_format, help="of images; pdf and svg are for papers (%(default)s)")
    return parser
