"""Train the model of a config; or, with --images, --train and --val, an open-vocabulary detector on your own data."""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import existing_file, existing_folder, output_folder
from clipself_d2.cli.overrides import override, with_epochs
from clipself_d2.cli.results import print_results
from clipself_d2.command_line import announce, exit_codes
from clipself_d2.engine.main import RESUME, build_parser, start
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import read_vocabulary

EXAMPLES = """
examples:
  a recipe of this package, by its name or path (python tools/train_net.py --help has more):
    clipself train --config-file distillation/clipself_eva02_b16_coco_patches --num-gpus 8
  F-ViT on your own boxes in COCO's format; boxes of the novel classes are not trained on, only measured:
    clipself train --images photos --train train.json --val val.json --novel "cat,hot dog" --output output/mine
  on the tower of a distillation; any value of the config can be changed:
    clipself train --images photos --train train.json --val val.json --epochs 12 \\
        clip.pretrained=output/distill/tower.safetensors optimizer.lr=5e-5
  the small detector that trains in minutes on a CPU:
    clipself train --images photos --train train.json --val val.json --config-file miniature/fvit train.device=cpu
  then, on other images and with any words:
    clipself predict new/ --words "cat, dog" --config-file output/mine/config.yaml
"""
DETECTOR = "detection/fvit_eva02_b16_ovcoco"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = build_parser("clipself train", __doc__ or "", EXAMPLES, DETECTOR)
    group = parser.add_argument_group("your own data")
    group.add_argument(
        "--images",
        type=existing_folder,
        metavar="DIR",
        help="the folder that the file names of the jsons start from",
    )
    group.add_argument(
        "--train",
        type=existing_file,
        metavar="FILE.json",
        help="boxes in COCO's format; it may lack classes of --val",
    )
    group.add_argument(
        "--val",
        type=existing_file,
        metavar="FILE.json",
        help="boxes to evaluate on; its categories are the classes",
    )
    group.add_argument(
        "--novel", type=read_vocabulary, metavar="A,B", help="classes whose boxes are not trained on (default: none)"
    )
    group.add_argument("--epochs", type=float, default=3.0, help="passes over the images (%(default)g)")
    group.add_argument("--output", type=output_folder, metavar="DIR", help="where the run is written (output/train)")
    args = parser.parse_intermixed_args(argv)
    own = {"--images": args.images, "--train": args.train, "--val": args.val}
    missing = [name for name, value in own.items() if value is None]
    if len(missing) == len(own) and (args.novel or args.output):
        raise InputError("--novel and --output belong to --images, --train and --val; a config has train.output_dir")
    if missing and not (len(missing) == len(own) and args.config_file):
        raise InputError(f"{' and '.join(missing)} missing: name them, or a config by --config-file (see --help)")
    args.config_file = args.config_file or DETECTOR
    return args


@exit_codes(interrupted=RESUME)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"training by {args.config_file}")
    if args.train:
        from clipself_d2.data.by_path import objects_at

        novel = [synonyms[0] for synonyms in args.novel or ()]
        data = objects_at(args.train, args.images, classes_of=args.val, novel=novel, training=True)
        args.opts = with_epochs(
            args.config_file,
            data,
            args.epochs,
            [
                override("dataloader.test.dataset", objects_at(args.val, args.images, novel=novel)),
                override("train.output_dir", str(args.output or "output/train")),
                *args.opts,
            ],
        )
    start(args)
    if args.train and args.machine_rank == 0:
        print_results(args.output or "output/train")
