"""Look for your words in images and videos. For each input, OUTPUT gets the image drawn, and a COCO json.

Without --config-file, the small detector that ships looks for shapes such as "red star" (miniature/panoptic_segmenter
and miniature/semantic_segmenter ship too); with --clip, that CLIP names every pixel by the text alone. A config of a
trained model gives what it predicts:
  detection/*  boxes (dashed: a base class, which has training labels); COCO results
  panoptic/*   a name for every pixel, one color per word; segments with masks as COCO's RLE
  semantic/*   the same with one segment per word, by CAT-Seg or (zero_shot_*) by the text alone
With --masks, the masks are SAM's, and the words the CLIP's (default: OpenAI's L/14 at 336 px).
Where every pixel gets the best word, name what surrounds your words too. A record also has `name` and `is_base`; its
image_id is the number in the file's name, else the input's number, and in a video the frame's number. Inputs that
cannot be read are skipped, logged and counted; results of several folders keep the folders.

Examples:
  clipself predict photo.jpg --words "red star, blue heart/love heart, lawn"
  clipself predict photos/ --words "cat, red car, street" --clip EVA02-B-16 --pretrained tower.safetensors
  clipself predict photo.jpg --words "red star, blue heart, lawn" --config-file miniature/panoptic_segmenter
  clipself predict photos/ --words "red star, blue heart" --config-file miniature/fvit \\
      --weights output/fvit/checkpoint_0000200.pth --save-txt
  clipself predict "videos/*.mp4" --words "dog, lawn/grass, sky" \\
      --config-file panoptic/mask2former_openai_l14_336_coco model.generator.download=true
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli.arguments import add_clip, add_trained, check_clip, words_parser
from clipself_d2.cli.overrides import clip_overrides, override
from clipself_d2.command_line import announce, exit_codes
from clipself_d2.errors import InputError
from clipself_d2.files import Stream, find_files, is_stream, output_stems
from clipself_d2.vocabulary import describe_classes, read_vocabulary

DETECTOR = "miniature/detector"
PANOPTIC = "miniature/panoptic_segmenter"
SEMANTIC = "miniature/semantic_segmenter"
BY_TEXT = "semantic/zero_shot_openai_b16_ade20k"
BY_SAM = "panoptic/sam_openai_l14_336_coco"


def is_override(word: str) -> bool:
    """Whether an input is a `key=value`, and neither a file nor a URL."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "://" not in key and not Path(word).exists()


def parse_args(
    argv: Sequence[str] | None,
    command: str = "predict",
    doc: str | None = __doc__,
    shipped: Sequence[str] = (DETECTOR,),
) -> argparse.Namespace:
    """Parse the arguments of `clipself predict` and of commands with the same.

    Args:
        argv: the arguments.
        command: the command's name.
        doc: its description.
        shipped: the config that needs no other weights, and its overrides.

    Raises:
        InputError: a wrong argument.
    """
    inputs = (
        "images, animations, videos, folders, patterns; until Ctrl-C streams (rtsp://..., http://...), webcam or "
        "webcam:1; key=value of the config"
    )
    parser = words_parser(command, doc, inputs, "jpg")
    add = parser.add_argument
    add(
        "--save-txt",
        action="store_true",
        help="also YOLO's labels of the boxes: NAME.txt, and the words in classes.txt",
    )
    add("--threshold", type=float, metavar="P", help="lowest score that is drawn (boxes: 0.3; others: 0)")
    add(
        "--novel",
        type=read_vocabulary,
        metavar="WORDS",
        help="novel classes (default: all but the base classes of the config's data set)",
    )
    add(
        "--stuff",
        type=read_vocabulary,
        metavar="WORDS",
        help="panoptic: words with one segment each (default: stuff of the data set)",
    )
    add_clip(parser)
    add_trained(parser, "the model (default: see above)")
    add("--masks", metavar="MODEL", help="name the masks of SAM or SAM 2: a name on the Hugging Face hub, or a folder")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks; on the CPU with train.device=cpu (%(default)s)")
    add("--resume", action="store_true", help="leave out inputs that have their json in OUTPUT")
    args = parser.parse_intermixed_args(argv)
    args.opts = [word for word in args.inputs if is_override(word)]
    args.inputs = [word for word in args.inputs if word not in args.opts]
    if not args.inputs:
        raise InputError("name an image, a video, or a folder of them (see --help)")
    if not args.config_file:
        check_clip(args)
    if args.masks:
        if args.config_file:
            raise InputError("--masks has a config of its own: leave --config-file out, or give it model.generator")
        args.config_file = BY_SAM
        args.opts = [override("model.generator.name", args.masks), "model.generator.download=true", *args.opts]
    if args.clip or args.config_file:
        args.config_file = args.config_file or BY_TEXT
        args.opts = [*clip_overrides(args.clip, args.pretrained), *args.opts]
    else:
        args.config_file, *overrides = shipped
        args.opts = [*overrides, *args.opts]
    return args


def predict(args: argparse.Namespace) -> None:
    """Run a model on the inputs, which the ranks share."""
    streams = [Stream(path) for path in args.inputs if is_stream(path)]
    args.files = [*find_files([path for path in args.inputs if not is_stream(path)]), *streams]
    output_stems(args.files, args.output)  # an error comes before the imports
    announce(describe_classes(args.words))

    from clipself_d2.engine.config import load_config
    from clipself_d2.engine.launch import launch
    from clipself_d2.visualization.media import check_stream

    for stream in streams:
        check_stream(stream)
    device = load_config(args.config_file, args.opts).train.device
    launch(predict_share, (args,), device=device, ranks_per_machine=args.num_gpus)


def predict_share(args: argparse.Namespace) -> None:
    """Run the model on this rank's inputs."""
    from detectron2.utils import comm
    from tabulate import tabulate

    from clipself_d2.engine.config import load_config
    from clipself_d2.visualization.predict_files import predict_files
    from clipself_d2.visualization.predictor import Predictor

    cfg = load_config(args.config_file, args.opts)
    chosen = {"novel": args.novel, "stuff": args.stuff}
    names = {key: [synonyms[0] for synonyms in given] for key, given in chosen.items() if given}
    predictor = Predictor(cfg, args.words, **names, weights=args.weights, threshold=args.threshold)
    options = {"image_format": args.format, "save_txt": args.save_txt, "resume": args.resume}
    found, failures = predict_files(predictor, args.files, args.output, **options)
    if not comm.is_main_process():
        return
    headers = ("word", "found", "in images", "best score")
    if rows := found.rows():
        print(tabulate(rows, headers, "simple_outline", floatfmt=".2f", maxcolwidths=[36]))
    else:
        print("found none of the words; --threshold 0 draws what has low scores too")
    if failures:
        print(f"{failures:,} of {len(args.files):,} inputs could not be read and were left out")
    print(f"written to {args.output}")


@exit_codes("with --resume the same command goes on where it stopped")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    predict(parse_args(argv))
