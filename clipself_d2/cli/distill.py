"""CLIPSelf on your own images: train the dense map of a CLIP without labels or words.

--images is searched with its subfolders; no json is needed. The result, OUTPUT/tower.safetensors, is a whole CLIP in
open_clip's format: --pretrained of the other commands takes it. It is worth measuring on some boxes of yours before and
after: `clipself eval --boxes`.
"""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import add_clip, image_folder, output_folder
from clipself_d2.cli.overrides import clip_overrides, override, with_epochs
from clipself_d2.command_line import announce, exit_codes
from clipself_d2.engine.main import RESUME, build_parser, start

EXAMPLES = """
examples:
  EVA-02-CLIP B/16, six epochs:
    clipself distill --images photos --output output/mine
  another CLIP; any value of the config can be changed:
    clipself distill --images photos --clip ViT-B-16-quickgelu --pretrained openai optimizer.lr=2e-5
  the small CLIP that ships, in minutes on a CPU:
    clipself distill --images photos --config-file miniature/clipself_patches train.max_iter=100
  after an interruption: the same command with --resume
"""
RECIPE = "distillation/clipself_eva02_b16_coco_patches"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = build_parser("clipself distill", __doc__ or "", EXAMPLES, RECIPE)
    add = parser.add_argument
    add("--images", type=image_folder, required=True, metavar="DIR", help="a folder of images")
    add_clip(parser)
    add("--epochs", type=float, default=6.0, help="passes over the images (%(default)g)")
    add(
        "--output",
        type=output_folder,
        default="output/distill",
        metavar="DIR",
        help="where the run is written (%(default)s)",
    )
    parser.set_defaults(config_file=RECIPE)
    return parser.parse_intermixed_args(argv)


@exit_codes(interrupted=RESUME)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"CLIPSelf on the images of {args.images}, into {args.output}")

    from clipself_d2.data.by_path import images_at

    overrides = [*clip_overrides(args.clip, args.pretrained), *student_size(args.clip)]
    # What the config would evaluate on is not there.
    overrides += [override("train.output_dir", str(args.output)), "dataloader.evaluator=null", "dataloader.test=null"]
    args.opts = with_epochs(args.config_file, images_at(args.images), args.epochs, [*overrides, *args.opts])
    start(args)
    print(f"written to {args.output}: tower.safetensors is the CLIP")


def student_size(clip: str | None) -> list[str]:
    """The override for the student's input of another CLIP: four times its own size, twice if that is large."""
    if clip is None:
        return []
    from clipself_d2.clip.build import image_tower_shape

    native = image_tower_shape(clip).native_size
    return [f"model.student_size={native * (2 if native > 256 else 4)}"]
