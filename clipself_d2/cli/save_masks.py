"""Save the masks that another project predicted, for configs/panoptic to score with CLIP.

Takes either kind of result file that COCO's tools define:
  --panoptic RESULT.json --png-root FOLDER    a panoptic result: json and PNGs
  --instances RESULT.json                     an instance-segmentation result, masks as RLE
A registered data set (--dataset) or a COCO json (--annotations) defines the image and category ids.

Result files name one class per mask: it gets the probability --confidence, the others share the rest. If you can run
the other project, call save_predictions in its inference loop instead, which keeps its scores: copy
clipself_d2/panoptic/standalone/clipself_masks.py there (docs/panoptic.md).
What is done is noted in OUTPUT.parts until all files are written: a stopped command goes on there, with any
--num-processes (or torchrun's ranks), and writes the same files.

Examples:
  clipself save-masks --dataset coco_2017_val_panoptic_ov --panoptic predictions.json \\
      --png-root predictions --output output/masks/mask2former_coco
  clipself save-masks --annotations mine/instances.json --instances coco_instances_results.json \\
      --output output/masks/mine
"""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import existing_file, existing_folder, output_folder
from clipself_d2.command_line import ArgumentParser, announce, exit_codes
from clipself_d2.errors import InputError


@exit_codes("the same command goes on where it stopped")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(
        "clipself save-masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    result = parser.add_mutually_exclusive_group(required=True)
    result.add_argument("--panoptic", type=existing_file, metavar="JSON", help="a panoptic result")
    result.add_argument("--instances", type=existing_file, metavar="JSON", help="an instance-segmentation result")
    add("--png-root", type=existing_folder, metavar="FOLDER", help="the PNGs of the panoptic result")
    meaning = parser.add_mutually_exclusive_group(required=True)
    meaning.add_argument("--dataset", metavar="NAME", help="a registered panoptic data set (datasets/README.md)")
    meaning.add_argument(
        "--annotations", type=existing_file, metavar="JSON", help="a COCO json with images and categories"
    )
    add("--output", type=output_folder, required=True, metavar="FOLDER", help="one .safetensors file per image")
    add("--confidence", type=float, default=0.9, metavar="P", help="probability of a mask's class (default 0.9)")
    add("--num-processes", type=int, default=1, metavar="N", help="that share the images (%(default)s)")
    args = parser.parse_args(argv)
    if args.panoptic and not args.png_root:
        raise InputError("--panoptic needs --png-root, the folder of its PNGs")
    announce(f"masks of {args.panoptic or args.instances}")

    from clipself_d2.engine.launch import launch

    launch(save_share, (args,), device="cpu", ranks_per_machine=args.num_processes)


def save_share(args: argparse.Namespace) -> None:
    """Save the masks of this process's images."""
    from detectron2.utils import comm

    from clipself_d2.panoptic.coco_results import ResultImages, save_instance_results, save_panoptic_results

    known = ResultImages.of_dataset(args.dataset) if args.dataset else ResultImages.of_annotations(args.annotations)
    if args.panoptic:
        count = save_panoptic_results(args.panoptic, args.png_root, args.output, known, args.confidence)
    else:
        count = save_instance_results(args.instances, args.output, known, args.confidence)
    if comm.is_main_process():
        print(f"{args.output}: masks of {count} images, and empty files for {len(known.images) - count} without")
