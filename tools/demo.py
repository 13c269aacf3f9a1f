"""Show the method on the miniature, or a trained detector or segmenter on your own pictures.

Without --input: distil the shipped miniature CLIP with CLIPSelf and show its dense features before and after, in a few
minutes on two CPU cores. Writes results.json, kmeans.png and report.html (open it in a browser).

With --input: detect the words of --vocabulary. For each input, OUTPUT gets the picture with boxes (blue: the detector
was trained on the word; red: it never saw it) and a json of all detections, as COCO's results with `name` and `seen`;
boxes are x, y, width, height in pixels, image_id is the number in the file's name, the input's number, or the frame's.
With --task panoptic: name every pixel by the words, with a config of configs/panoptic; the picture has a colour a word
and a legend, the json all segments, masks as COCO's RLE. With --task semantic the same without segments, by a config of
configs/semantic: CAT-Seg, or (zero_shot_*) the text alone. Name what surrounds your words too: a pixel gets the best.
Pictures and animations (GIF, WebP, APNG) need nothing else; films (mp4, avi, mov, mkv, webm) need OpenCV:
pip install opencv-python-headless. What cannot be read is left out, said and counted.

Examples:
  python tools/demo.py --output output/demo train.max_iter=200
  python tools/demo.py --input photos/ --vocabulary "red star, blue heart/love heart" \\
      --config-file configs/miniature/fvit.py --weights output/miniature_fvit/checkpoint_0000600.pth
  python tools/demo.py --task panoptic --input photos/ --vocabulary "dog, lawn/grass, sky" \\
      --config-file configs/panoptic/mask2former_openai_l14_336_coco.py model.generator.download=true
  python tools/demo.py --task semantic --input photos/ --vocabulary "dog, lawn/grass, sky" \\
      --config-file configs/semantic/zero_shot_openai_b16_ade20k_clipself_patches.py model.finer=2
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.data import ImageError
from clipself_d2.detection import demo as detection
from clipself_d2.engine.config import load_config, train_settings
from clipself_d2.engine.inference import autocast, load_trained, resolve_device
from clipself_d2.errors import InputError
from clipself_d2.miniature.demo import Demo
from clipself_d2.panoptic import demo as panoptic
from clipself_d2.semantic import demo as semantic
from clipself_d2.visualization import draw_detections, draw_segments, find_media, open_medium, save_frames, to_pil
from clipself_d2.vocabulary import read_vocabulary

Words = tuple[list[tuple[str, ...]], list[str] | None]
"""The user's classes, and the names of those that are novel, if they are said."""

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
    add("--stuff", metavar="WORDS", help="panoptic: those of which all is one segment (stuff of the config's data set)")
    add("--task", choices=tuple(TASKS), default="detection", help="what is looked for (%(default)s)")
    add("--config-file", metavar="FILE", help="the config that the model was trained by, or of a task")
    add("--weights", default="", metavar="FILE", help="checkpoint_*.pth (default: the newest, if the config trains)")
    add("--threshold", type=float, metavar="P", help="least score that is drawn (detection: 0.3; others: 0)")
    args = parser.parse_intermixed_args(argv)
    for word in [word for word in args.input or () if "=" in word and not Path(word).exists()]:
        args.input.remove(word)  # an override that stands behind the inputs
        args.opts.append(word)
    needed = ("input", "vocabulary", "config_file")
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(args, name) is None]
    if missing and (len(missing) < len(needed) or args.novel or args.stuff or args.weights or args.task != "detection"):
        raise InputError(f"{' and '.join(missing)} missing: your own pictures need {', '.join(missing)} (see --help)")
    return args


class Task:
    """A model with its words: draws and lists what it finds in pictures and films.

    Attributes:
        noun: what is found.
        threshold: least score that is drawn.
    """

    noun: str
    threshold: float

    def find(self, frames: Iterable[Tensor], source: Path) -> Iterator[tuple[Tensor, Any]]:
        """Runs the model on the frames of an input; yields each with what was found."""
        raise NotImplementedError

    def describe(self, found: Any, image_id: int) -> list[dict[str, Any]]:
        """What was found in a frame, for the json."""
        raise NotImplementedError

    def draw(self, image: Image.Image, found: Any, results: list[dict[str, Any]], film: bool) -> Image.Image:
        """What was found over its frame; the frames of a film become pictures of one size."""
        raise NotImplementedError

    def run(self, source: Path, stem: Path, number: int) -> int:
        """Reads a picture or film and writes its picture and json; returns how much was found.

        Raises:
            ImageError: if it cannot be read.
        """
        medium = open_medium(source)
        listed: list[dict[str, Any]] = []
        image_id = int(source.stem) if source.stem.isdecimal() else number

        def drawn() -> Iterator[Image.Image]:
            found = self.find(medium.frames, source)
            bar = tqdm(found, source.name, medium.count, unit="frame", leave=False, disable=medium.count == 1)
            for frame, (image, what) in enumerate(bar):
                results = self.describe(what, frame if medium.rate else image_id)
                listed.extend(results)
                yield self.draw(to_pil(image), what, results, film=bool(medium.rate))

        save_frames(stem, drawn(), medium, source)
        text = "[" + ",\n".join(map(json.dumps, listed)) + "]\n"
        write_atomically(stem.with_name(f"{stem.name}.json"), lambda file: file.write_text(text))
        return len(listed)


class Detection(Task):
    """Boxes of things, by a detector."""

    noun = "detections"

    def __init__(self, cfg: DictConfig, args: argparse.Namespace, words: Words) -> None:
        if args.stuff:
            raise InputError("--stuff is for --task panoptic: a detector finds things")
        self.threshold = 0.3 if args.threshold is None else args.threshold
        # In place of the config's own, whose classes would have to be embedded too.
        cfg.model.vocabulary = self.vocabulary = detection.user_vocabulary(cfg, *words)
        self.precision = autocast(train_settings(cfg))
        self.model = load_trained(cfg, args.weights)

    def find(self, frames: Iterable[Tensor], source: Path) -> Iterator[tuple[Tensor, Any]]:
        """See `Task`."""
        return detection.detect(self.model, frames, self.vocabulary, batch_size=4, precision=self.precision)

    def describe(self, found: Any, image_id: int) -> list[dict[str, Any]]:
        """See `Task`."""
        return detection.to_results(found, self.vocabulary, image_id)

    def draw(self, image: Image.Image, found: Any, results: list[dict[str, Any]], film: bool) -> Image.Image:
        """See `Task`."""
        return draw_detections(image, results, self.threshold)


class Panoptic(Task):
    """A name for every pixel, by a mask generator and CLIP."""

    noun = "segments"

    def __init__(self, cfg: DictConfig, args: argparse.Namespace, words: Words) -> None:
        self.threshold = args.threshold or 0.0
        stuff = [synonyms[0] for synonyms in read_vocabulary(args.stuff)] if args.stuff else None
        self.vocabulary, self.isthing = panoptic.user_vocabulary(cfg, *words, stuff)
        cfg.model.update(vocabulary=self.vocabulary, isthing=self.isthing, tasks=["panoptic_seg"])
        self.precision = autocast(train_settings(cfg))
        self.model = load_trained(cfg, args.weights or None)  # its towers and its masks' network come from the config

    def find(self, frames: Iterable[Tensor], source: Path) -> Iterator[tuple[Tensor, Any]]:
        """See `Task`."""
        return panoptic.segment(self.model, frames, self.vocabulary, self.isthing, self.precision, str(source))

    def describe(self, found: Any, image_id: int) -> list[dict[str, Any]]:
        """See `Task`."""
        return panoptic.to_results(found, self.vocabulary, image_id, self.threshold)

    def draw(self, image: Image.Image, found: Any, results: list[dict[str, Any]], film: bool) -> Image.Image:
        """See `Task`."""
        ids = panoptic.shown_ids(found[0], results)
        return draw_segments(image, ids, results, self.vocabulary.names, all_named=film)


class Semantic(Task):
    """A word for every pixel, by CAT-Seg or by the text alone."""

    noun = "regions"

    def __init__(self, cfg: DictConfig, args: argparse.Namespace, words: Words) -> None:
        if args.stuff or args.novel:
            raise InputError("--stuff and --novel are for other tasks: a semantic segmenter treats all words alike")
        self.threshold = args.threshold or 0.0
        self.vocabulary = semantic.user_vocabulary(cfg, words[0])
        for name in ("vocabulary", "test_vocabulary"):  # in place of the config's own, whose classes take long to embed
            if name in cfg.model:
                cfg.model[name] = self.vocabulary
        self.precision = autocast(train_settings(cfg))
        newest = "" if cfg.dataloader.get("train") else None  # what is not trained has no checkpoint
        self.model = load_trained(cfg, args.weights or newest)

    def find(self, frames: Iterable[Tensor], source: Path) -> Iterator[tuple[Tensor, Any]]:
        """See `Task`."""
        return semantic.segment(self.model, frames, self.vocabulary, self.precision, self.threshold)

    def describe(self, found: Any, image_id: int) -> list[dict[str, Any]]:
        """See `Task`."""
        return semantic.to_results(found, self.vocabulary, image_id)

    def draw(self, image: Image.Image, found: Any, results: list[dict[str, Any]], film: bool) -> Image.Image:
        """See `Task`."""
        segments = [{"id": 1 + r["category_id"], "category_id": r["category_id"]} for r in results]
        return draw_segments(image, found[0] + 1, segments, self.vocabulary.names, all_named=film)


TASKS: dict[str, Callable[[DictConfig, argparse.Namespace, Words], Task]] = {
    "detection": Detection,
    "panoptic": Panoptic,
    "semantic": Semantic,
}


def _words(args: argparse.Namespace) -> Words:
    """The user's words, and the names of those that are novel, if they are said."""
    novel = [synonyms[0] for synonyms in read_vocabulary(args.novel)] if args.novel else None
    return read_vocabulary(args.vocabulary), novel


def look_at_pictures(args: argparse.Namespace) -> None:
    """Run a task on the inputs; those that cannot be read are left out with a warning, unless that is all."""
    sources, output = find_media(args.input), Path(args.output)
    if output.resolve() in {source.resolve().parent for source in sources}:
        raise InputError(f"--output {output}: is the folder of the inputs, which would be overwritten; name another")
    words = _words(args)  # what is wrong with them is said before the config is read
    cfg = load_config(args.config_file, args.opts)
    cfg.train.device = resolve_device(cfg.train.device)
    task = TASKS[args.task](cfg, args, words)
    stems = [source.stem for source in sources]
    total, failures = 0, []
    for number, source in enumerate(tqdm(sources, "inputs", unit="file", disable=len(sources) == 1)):
        name = source.stem if stems.count(source.stem) == 1 else source.name
        try:
            total += task.run(source, output / name, number)
        except ImageError as error:
            failures.append(error)
            if len(failures) == len(sources):
                raise
            logging.warning("Left out: %s", error)
    print(f"{total:,} {task.noun} in {len(sources) - len(failures):,} of {len(sources):,} inputs; see {output}")


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the demonstration; returns the exit code."""
    args = parse_args(argv)
    if args.input:
        look_at_pictures(args)
    else:
        Demo(MINIATURE, args.output, args.opts).run()


if __name__ == "__main__":
    sys.exit(main())
