"""Show the method on the miniature, or a trained detector on your own pictures.

Without --input: distil the shipped miniature CLIP with CLIPSelf and show its dense features before and after, in a few
minutes on two CPU cores. Writes results.json, kmeans.png and report.html (open it in a browser).

With --input: detect the words of --vocabulary. For each input, OUTPUT gets the picture with boxes (blue: the detector
was trained on the word; red: it never saw it) and a json of all detections, as COCO's results with `name` and `seen`;
boxes are x, y, width, height in pixels, image_id is the number in the file's name, the input's number, or the frame's.
Pictures and animations (GIF, WebP, APNG) need nothing else; films (mp4, avi, mov, mkv, webm) need OpenCV:
pip install opencv-python-headless. What cannot be read is left out, said and counted.

Examples:
  python tools/demo.py --output output/demo train.max_iter=200
  python tools/demo.py --input photos/ --vocabulary "red star, blue heart/love heart" \\
      --config-file configs/miniature/fvit.py --weights output/miniature_fvit/checkpoint_0000600.pth
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.words import read_vocabulary
from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data import ImageError
from clipself_d2.detection.demo import detect, to_results, user_vocabulary
from clipself_d2.errors import InputError
from clipself_d2.miniature.demo import Demo
from clipself_d2.regions.vocabulary import Vocabulary
from clipself_d2.training.config import load_config, train_settings
from clipself_d2.training.inference import autocast, load_trained, resolve_device
from clipself_d2.visualization import draw_detections, find_media, open_medium, save_frames, to_pil

MINIATURE = Path(__file__).parents[1] / "configs/miniature/clipself_patches.py"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", default="output/demo", metavar="DIR", help="where results go (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    group = parser.add_argument_group("your own pictures")
    add = group.add_argument
    add("--input", nargs="+", metavar="PATH", help="pictures, films, folders of these")
    add("--vocabulary", metavar="WORDS", help='"cat, hot dog/frankfurter", or classes.txt or .json; synonyms by /')
    add("--novel", metavar="WORDS", help="those that the detector never saw (all but the base classes of its data set)")
    add("--config-file", metavar="FILE", help="the config that the detector was trained by")
    add("--weights", default="", metavar="FILE", help="checkpoint_*.pth (default: the newest in train.output_dir)")
    add("--threshold", type=float, default=0.3, metavar="P", help="least score that is drawn (%(default)s)")
    args = parser.parse_intermixed_args(argv)
    for word in [word for word in args.input or () if "=" in word and not Path(word).exists()]:
        args.input.remove(word)  # an override that stands behind the inputs
        args.opts.append(word)
    needed = ("input", "vocabulary", "config_file")
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(args, name) is None]
    if missing and (len(missing) < len(needed) or args.novel or args.weights):
        raise InputError(f"{' and '.join(missing)} missing: your own pictures need {', '.join(missing)} (see --help)")
    return args


class Detector:
    """A model with its words: draws and lists what it finds in pictures and films."""

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, precision: Any, threshold: float) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.precision = precision
        self.threshold = threshold

    def run(self, source: Path, stem: Path, number: int) -> int:
        """Reads a picture or film and writes its picture and json; returns the number of detections.

        Raises:
            ImageError: if it cannot be read.
        """
        medium = open_medium(source)
        results: list[dict[str, Any]] = []
        image_id = int(source.stem) if source.stem.isdecimal() else number

        def drawn() -> Iterator[Image.Image]:
            found = detect(self.model, medium.frames, self.vocabulary, batch_size=4, precision=self.precision)
            bar = tqdm(found, source.name, medium.count, unit="frame", leave=False, disable=medium.count == 1)
            for frame, (image, instances) in enumerate(bar):
                detections = to_results(instances, self.vocabulary, frame if medium.rate else image_id)
                results.extend(detections)
                yield draw_detections(to_pil(image), detections, self.threshold)

        save_frames(stem, drawn(), medium, source)
        text = "[" + ",\n".join(map(json.dumps, results)) + "]\n"
        write_atomically(stem.with_name(f"{stem.name}.json"), lambda file: file.write_text(text))
        return len(results)


def detect_in_pictures(args: argparse.Namespace) -> None:
    """Run a detector on the inputs; those that cannot be read are left out with a warning, unless that is all."""
    sources, output = find_media(args.input), Path(args.output)
    if output.resolve() in {source.resolve().parent for source in sources}:
        raise InputError(f"--output {output}: is the folder of the inputs, which would be overwritten; name another")
    words = read_vocabulary(args.vocabulary)
    novel = [synonyms[0] for synonyms in read_vocabulary(args.novel)] if args.novel else None
    cfg = load_config(args.config_file, args.opts)
    cfg.train.device = resolve_device(cfg.train.device)
    # In place of the config's own, whose classes would have to be embedded too.
    cfg.model.vocabulary = vocabulary = user_vocabulary(cfg, words, novel)
    settings = train_settings(cfg)
    detector = Detector(load_trained(cfg, args.weights), vocabulary, autocast(settings), args.threshold)
    stems = [source.stem for source in sources]
    total, failures = 0, []
    for number, source in enumerate(tqdm(sources, "inputs", unit="file", disable=len(sources) == 1)):
        name = source.stem if stems.count(source.stem) == 1 else source.name
        try:
            total += detector.run(source, output / name, number)
        except ImageError as error:
            failures.append(error)
            if len(failures) == len(sources):
                raise
            logging.warning("Left out: %s", error)
    print(f"{total:,} detections in {len(sources) - len(failures):,} of {len(sources):,} inputs; see {output}")


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demonstration; returns the exit code."""
    args = parse_args(argv)
    if args.input:
        detect_in_pictures(args)
    else:
        Demo(MINIATURE, args.output, args.opts).run()


if __name__ == "__main__":
    sys.exit(main())
