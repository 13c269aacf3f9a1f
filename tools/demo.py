"""Show the method on the miniature, or a trained detector or segmenter on your own images and videos.

Without --input: distill the shipped miniature CLIP with CLIPSelf and show its dense features before and after, in a few
minutes on two CPU cores. Writes results.json, kmeans.png and report.html (open it in a browser).

With --input: look for the words of --vocabulary with the model of --config-file. For each input, OUTPUT gets the image
with the predictions drawn, and a json of them. What the config is of decides what they are:
  configs/detection  boxes (blue: a base class, which has training labels; red: a novel class); COCO results
  configs/panoptic   a name for every pixel, one color per word; segments with masks as COCO's RLE
  configs/semantic   the same with one segment per word, by CAT-Seg or (zero_shot_*) by the text alone
For the last two, name what surrounds your words too: every pixel gets the best word. A record also has `name` and
`is_base`; its image_id is the number in the file's name, else the input's number, and in a video the frame's number.
Inputs that cannot be read are skipped, logged and counted; results of several folders keep the folders.

Examples:
  python tools/demo.py --output output/demo train.max_iter=200
  python tools/demo.py --input images/ --vocabulary "red star, blue heart/love heart" \\
      --config-file configs/miniature/fvit.py --weights output/fvit/checkpoint_0000400.pth
  python tools/demo.py --input images/ --vocabulary "dog, lawn/grass, sky" \\
      --config-file configs/panoptic/mask2former_openai_l14_336_coco.py model.generator.download=true
  python tools/demo.py --input images/ --vocabulary "dog, lawn/grass, sky" \\
      --config-file configs/semantic/zero_shot_openai_b16_ade20k.py model.finer=2
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import WORDS_HELP, ArgumentParser, exit_codes
from clipself_d2.errors import InputError

MINIATURE = Path(__file__).parents[1] / "configs/miniature/clipself_patches.py"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(
        description=__doc__, epilog=WORDS_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", default="output/demo", metavar="DIR", help="where results go (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    group = parser.add_argument_group("your own images")
    add = group.add_argument
    add("--input", nargs="+", metavar="PATH", help="images, animations, videos, folders of these, and patterns (*.png)")
    add("--vocabulary", metavar="WORDS", help="what to look for, see below")
    add(
        "--novel",
        metavar="WORDS",
        help="novel classes (default: all but the base classes of the config's data set)",
    )
    add("--stuff", metavar="WORDS", help="panoptic: words with one segment each (default: stuff of the data set)")
    add("--config-file", metavar="FILE", help="the config that the model was trained with, or of a model to evaluate")
    add(
        "--weights",
        default="",
        metavar="FILE",
        help="checkpoint_*.pth (default: the newest, if the config trains), or null",
    )
    add("--threshold", type=float, metavar="P", help="lowest score that is drawn (boxes: 0.3; others: 0)")
    args = parser.parse_intermixed_args(argv)
    for word in [word for word in args.input or () if "=" in word and not Path(word).exists()]:
        args.input.remove(word)  # an override that stands behind the inputs
        args.opts.append(word)
    needed = ("input", "vocabulary", "config_file")
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(args, name) is None]
    if missing and (
        len(missing) < len(needed) or args.novel or args.stuff or args.weights or args.threshold is not None
    ):
        raise InputError(f"{' and '.join(missing)} missing: your own images need {', '.join(missing)} (see --help)")
    return args


def predict(args: argparse.Namespace) -> None:
    """Run a model on the inputs."""
    from clipself_d2.engine.config import load_config
    from clipself_d2.visualization.demo import Predictor, predict_files
    from clipself_d2.visualization.media import find_files
    from clipself_d2.vocabulary import describe_classes, read_vocabulary

    def names(words: str | None) -> list[str] | None:
        return [synonyms[0] for synonyms in read_vocabulary(words)] if words else None

    files, output = find_files(args.input), Path(args.output).expanduser()
    words = read_vocabulary(args.vocabulary)
    print(describe_classes(words))
    cfg = load_config(args.config_file, args.opts)
    options = {"novel": names(args.novel), "stuff": names(args.stuff)}
    predictor = Predictor(cfg, words, **options, weights=args.weights, threshold=args.threshold)
    predictions, failures = predict_files(predictor, files, output)
    print(f"{predictions:,} predictions in {len(files) - failures:,} of {len(files):,} inputs; see {output}")


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo; returns the exit code."""
    args = parse_args(argv)
    if args.input:
        predict(args)
    else:
        from clipself_d2.miniature.demo import run_demo

        run_demo(MINIATURE, args.output, args.opts)


if __name__ == "__main__":
    sys.exit(main())
