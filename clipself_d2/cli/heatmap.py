"""Show where in an image a CLIP sees each word: the cosine of every location of its dense map with the word's text.

For each image, OUTPUT gets a row of pictures: the image, then one heat map per word, dark for the lowest cosine of the
row and bright for the highest. The CLIP is the small one that ships, or --clip.

Examples:
  clipself heatmap photo.jpg --words "red star, lawn"
  clipself heatmap photos/ --words "cat, red car" --clip EVA02-B-16 --pretrained tower.safetensors --size 1024
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli.arguments import add_clip, check_clip, words_parser
from clipself_d2.command_line import exit_codes, weights


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = words_parser(
        "heatmap", __doc__, "images, folders of images, and patterns (*.png); of an animation the first frame"
    )
    add_clip(parser, weights)
    add = parser.add_argument
    add("--templates", help="vild (63), photo, or one template with {} (default: vild; of the small CLIP its own)")
    add("--size", type=int, metavar="PX", help="side that images are resized to (default: twice the CLIP's own)")
    args = parser.parse_args(argv)
    check_clip(args)
    return args


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)

    import torch
    from tqdm import tqdm

    from clipself_d2 import miniature
    from clipself_d2.clip import build_towers
    from clipself_d2.data import read_image
    from clipself_d2.visualization.heatmaps import draw_word_maps
    from clipself_d2.visualization.media import find_files, output_stems
    from clipself_d2.vocabulary import TextClassifier, Vocabulary, describe_classes, read_vocabulary

    words = read_vocabulary(args.words)
    files, output = find_files(args.inputs), Path(args.output).expanduser()
    print(describe_classes(words))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tower, text = build_towers(
        args.clip or miniature.MODEL, args.pretrained if args.clip else miniature.CLIPSELF_WEIGHTS
    )
    templates = args.templates or ("vild" if args.clip else list(miniature.TEMPLATES))
    vocabulary = Vocabulary.from_classes(words, TextClassifier(text.to(device), templates), background=None)
    tower, size = tower.to(device).eval(), args.size or 2 * tower.native_size
    tower.check_size(size, "--size")
    for file, stem in zip(tqdm(files, "images", unit=" images"), output_stems(files, output), strict=True):
        stem.parent.mkdir(parents=True, exist_ok=True)
        draw_word_maps(tower, vocabulary, read_image(file), size).save(stem.with_name(f"{stem.name}.png"))
    print(f"written to {output}")
