"""Show where in an image a CLIP sees each word: the cosine of every location of its dense map with the word's text.

For each image, OUTPUT gets a row of pictures: the image, then one heat map per word, all on one scale. With --compare
a row above shows the same CLIP before CLIPSelf. The CLIP is the small one that ships, or --clip.

Examples:
  clipself heatmap photo.jpg --words "red star, lawn" --compare
  clipself heatmap photos/ --words "cat, red car" --clip EVA02-B-16 --pretrained tower.safetensors --size 1024
  clipself heatmap photo.jpg --words "cat" --clip ViT-B-16-quickgelu --pretrained tower.safetensors --compare openai
"""

import argparse
import logging
from collections.abc import Sequence

from clipself_d2.cli.arguments import add_clip, check_clip, clip_weights, words_parser
from clipself_d2.command_line import announce, exit_codes, weights
from clipself_d2.errors import InputError
from clipself_d2.files import ANIMATIONS, IMAGE_SUFFIXES, find_files, output_stems
from clipself_d2.vocabulary import describe_classes

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = words_parser(
        "heatmap", __doc__, "images, folders of images, and patterns (*.png); of an animation the first frame", "png"
    )
    add_clip(parser)
    add = parser.add_argument
    add(
        "--compare",
        type=clip_weights,
        nargs="?",
        const="",
        metavar="WEIGHTS",
        help="also draw the CLIP before CLIPSelf, whose weights are these (those of the small CLIP are known)",
    )
    add("--templates", help="vild (63), photo, or one template with {} (default: vild; of the small CLIP its own)")
    add("--size", type=int, metavar="PX", help="side that images are resized to (default: twice the CLIP's own)")
    args = parser.parse_args(argv)
    check_clip(args)
    if args.compare is not None and bool(args.compare) != bool(args.clip):
        raise InputError(
            "--compare: with --clip, give the weights of that CLIP before CLIPSelf; without, put --compare last, alone"
        )
    return args


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    files = find_files(args.inputs, IMAGE_SUFFIXES | ANIMATIONS)
    stems = output_stems(files, args.output)
    announce(describe_classes(args.words))

    from tqdm import tqdm

    from clipself_d2 import miniature
    from clipself_d2.clip import build_image_tower, build_towers
    from clipself_d2.data import ImageError, read_image
    from clipself_d2.engine.inference import resolve_device
    from clipself_d2.visualization.figures import save_figure
    from clipself_d2.visualization.heatmaps import draw_word_maps
    from clipself_d2.vocabulary import TextClassifier, Vocabulary

    device = resolve_device("auto")
    name, before, after = miniature.MODEL, miniature.WEIGHTS, miniature.CLIPSELF_WEIGHTS
    if args.clip:
        name, before, after = args.clip, args.compare, args.pretrained
    tower, text = build_towers(name, weights(after))
    towers = {"CLIPSelf": tower.to(device)}
    if args.compare is not None:
        towers = {"before": build_image_tower(name, weights(before)).to(device), **towers}
    templates = args.templates or ("vild" if args.clip else list(miniature.TEMPLATES))
    vocabulary = Vocabulary.from_classes(args.words, TextClassifier(text.to(device), templates), background=None)
    size = args.size or 2 * tower.native_size
    tower.check_size(size, "--size")
    failed = 0
    for file, stem in zip(tqdm(files, "images", unit=" images"), stems, strict=True):
        try:
            image = read_image(file)
        except ImageError as error:
            failed += 1
            if failed == len(files):
                raise
            logger.warning("Skipped: %s", error)
            continue
        figure = draw_word_maps(towers, vocabulary, image, size)
        save_figure(figure, stem.with_name(f"{stem.name}.{args.format}"), None if args.format == "png" else 300)
    if failed:
        print(f"{failed:,} of {len(files):,} images could not be read and were left out")
    print(f"written to {args.output}")
