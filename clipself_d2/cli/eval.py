"""Evaluate the model of a config; or, with --images and --boxes, how well a CLIP names the boxes of your own json.

Region accuracy: each box gets the class whose text is nearest, of all classes of the json, by the dense map (boxes, and
thing_masks where the objects have masks) and by the image embedding of its crop (crops). In percent, averaged over
classes. CLIPSelf raises the first two.
"""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import add_clip, existing_file, existing_folder, output_folder
from clipself_d2.cli.distill import RECIPE, student_size
from clipself_d2.cli.overrides import clip_overrides, override
from clipself_d2.cli.results import print_results
from clipself_d2.command_line import announce, exit_codes
from clipself_d2.engine.main import build_parser, start
from clipself_d2.errors import InputError

EXAMPLES = """
examples:
  a CLIP on your own boxes, in COCO's format; then the same after distillation:
    clipself eval --images photos --boxes val.json --clip ViT-B-16-quickgelu --pretrained openai
    clipself eval --images photos --boxes val.json --clip ViT-B-16-quickgelu \\
        --pretrained output/distill/tower.safetensors
  the small CLIP that ships:
    clipself eval --images photos --boxes val.json --config-file miniature/clipself_patches
  a recipe of this package, on its own data set:
    clipself eval --config-file detection/fvit_eva02_b16_ovcoco --resume
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = build_parser("clipself eval", __doc__ or "", EXAMPLES, RECIPE)
    parser.set_defaults(eval_only=True)
    group = parser.add_argument_group("your own boxes")
    group.add_argument(
        "--images",
        type=existing_folder,
        metavar="DIR",
        help="the folder that the file names of the json start from",
    )
    group.add_argument("--boxes", type=existing_file, metavar="FILE.json", help="boxes in COCO's format")
    add_clip(group)
    group.add_argument("--output", type=output_folder, metavar="DIR", help="where results are written (output/eval)")
    args = parser.parse_intermixed_args(argv)
    if (args.images is None) != (args.boxes is None):
        raise InputError("--images and --boxes belong together: a folder, and the json of the boxes in its images")
    if not (args.boxes or args.config_file):
        raise InputError("name your own data by --images and --boxes, or a config by --config-file (see --help)")
    args.config_file = args.config_file or RECIPE
    return args


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"evaluation by {args.config_file}")
    overrides = clip_overrides(args.clip, args.pretrained)
    if args.boxes:
        from clipself_d2.data import get_dataset
        from clipself_d2.data.by_path import objects_at

        data = objects_at(args.boxes, args.images)
        get_dataset(data)  # what is wrong is said before weights are read
        overrides += [
            override("dataloader.test.dataset", data),
            override("dataloader.test.mapper._target_", "clipself_d2.data.InstanceRegionMapper"),
            *student_size(args.clip),
        ]
        args.output = args.output or "output/eval"
    if args.output:
        overrides.append(override("train.output_dir", str(args.output)))
    args.opts = [*overrides, *args.opts]
    start(args)
    if args.output and args.machine_rank == 0:
        print_results(args.output)
