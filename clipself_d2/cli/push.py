"""Push a distilled CLIP, or a trained detector or segmenter, to the Hugging Face hub, with a model card.

SOURCE is a tower.safetensors (its card tower.json lies beside it), the output folder of a training, or a config whose
train.init_checkpoint has the weights. No path of this machine is uploaded. Log in first: hf auth login.

Examples:
  clipself push output/mine/tower.safetensors OWNER/my-clip --license mit
  clipself push output/fvit OWNER/my-detector --license apache-2.0
  clipself push miniature/panoptic_segmenter OWNER/my-segmenter --license apache-2.0
  clipself push output/mine/tower.safetensors OWNER/my-clip --license mit --dry-run my-clip
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli.arguments import existing_file, output_folder
from clipself_d2.command_line import ArgumentParser, announce, exit_codes
from clipself_d2.errors import InputError
from clipself_d2.files import find_config


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser("clipself push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=Path, help="a tower.safetensors, the output folder of a training, or a config")
    add("repository", metavar="OWNER/NAME", help="of the hub; made if it does not exist")
    add("--license", required=True, help="of the weights, as the hub names it (mit, apache-2.0, other)")
    add("--dry-run", type=output_folder, metavar="FOLDER", help="write the files to FOLDER, and upload nothing")
    args = parser.parse_args(argv)
    if args.repository.count("/") != 1:
        raise InputError(f"{args.repository}: give OWNER/NAME")
    if args.source.suffix == ".safetensors":
        existing_file(str(args.source))
    elif not args.source.is_dir():
        find_config(args.source)
    announce(f"files of {args.repository} from {args.source}")

    import clipself_d2.miniature  # noqa: F401  (registers its model with open_clip)
    from clipself_d2.engine.hub import push, write_repository

    if args.dry_run:
        write_repository(args.source, args.dry_run, args.repository, args.license)
        print(f"written to {args.dry_run}")
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"pushed to {push(args.source, Path(folder), args.repository, args.license)}")
