"""A trained detector or segmenter on a user's images and videos, with the user's words."""

from __future__ import annotations

import copy
import functools
import json
import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.command_line import signal_handlers
from clipself_d2.data import ImageError
from clipself_d2.data.catalog import check_registered
from clipself_d2.data.vocabulary import base_classes, dataset_stuff
from clipself_d2.engine.config import build, train_settings
from clipself_d2.engine.hub import read_run
from clipself_d2.engine.inference import autocast, load_trained, resolve_device
from clipself_d2.errors import InputError
from clipself_d2.evaluation.json_results import semantic_segments, to_results, to_yolo
from clipself_d2.visualization.media import Stream, open_frames, output_stems, write_frames
from clipself_d2.visualization.predictions import draw_predictions
from clipself_d2.vocabulary import TextClassifier, Vocabulary, seen_classes

logger = logging.getLogger(__name__)

Words = Sequence[Sequence[str]]


class Predictor:
    """A trained model that looks for a user's words.

    Args:
        cfg: of a detector, a panoptic or a semantic segmenter; its classes are replaced.
        words: for each class its synonyms, the first of which is its name.
        novel: see `set_classes`.
        stuff: see `set_classes`.
        weights: see `load_trained`; "null" for None.
        threshold: lowest score of a box that is drawn (default 0.3), of a segment that is kept (default 0), and of a
            pixel that has a class in semantic segmentation (default 0).

    Raises:
        InputError: see `set_classes`; or no weights.
    """

    def __init__(
        self,
        cfg: DictConfig,
        words: Words,
        *,
        novel: Sequence[str] | None = None,
        stuff: Sequence[str] | None = None,
        weights: str = "",
        threshold: float | None = None,
    ) -> None:
        cfg.train.device = resolve_device(cfg.train.device)
        self.cfg = copy.deepcopy(cfg)
        self.words = words
        self.is_base = set_classes(cfg, words, novel, stuff)
        self.threshold = threshold
        self.precision = autocast(train_settings(cfg))
        self.model: Any = load_trained(cfg, None if weights == "null" else weights)
        # Of a semantic segmenter: the scores of all words in all pixels fill the memory.
        self.model.labels_only = True  # type: ignore[assignment]
        self._classes: dict[str, Any] = {}  # arguments of a call, if they are no longer the model's own

    @classmethod
    def from_pretrained(cls, source: str, words: Words, **settings: Any) -> Predictor:
        """A detector or segmenter that `clipself push` wrote; nothing in its files is executed.

        Args:
            source: ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.
            words: see the class.
            **settings: the other arguments of the class.
        """
        cfg, weights = read_run(source)
        return cls(cfg, words, weights=weights, **settings)

    @property
    def names(self) -> list[str]:
        """The first synonym of each class."""
        return [synonyms[0] for synonyms in self.words]

    @functools.cached_property
    def text(self) -> TextClassifier:
        """What embeds words for the model."""
        text: TextClassifier = build(self.cfg, "model.vocabulary.text")
        return text

    def set_words(self, words: Words) -> None:
        """Look for other words from now on; which are novel and which are stuff is the data set's to say."""
        if words == self.words:
            return
        cfg = copy.deepcopy(self.cfg)
        is_base = set_classes(cfg, words)
        novel = [synonyms[0] for synonyms, known in zip(words, is_base, strict=True) if not known]
        background = "background" if self.model.vocabulary.background is not None else None
        vocabulary = Vocabulary.from_classes(words, self.text, novel=novel, background=background)
        isthing = {"isthing": list(cfg.model.isthing)} if "isthing" in cfg.model else {}
        self.words, self.is_base, self._classes = words, is_base, {"vocabulary": vocabulary, **isthing}

    @torch.inference_mode()
    def __call__(self, image: Tensor, file_name: str = "") -> dict[str, Any]:
        """Return Detectron2's output for an image, on the CPU.

        Args:
            image: 3 x H x W uint8 RGB.
            file_name: of the image, by which saved masks are found.

        Returns:
            ``instances``; or ``panoptic_seg``, by a semantic segmenter with one segment per class.
        """
        height, width = image.shape[1:]
        with self.precision:
            sample = {"image": image, "height": height, "width": width, "file_name": file_name}
            [output] = self.model([sample], **self._classes)
        threshold = self.threshold or 0.0
        if "sem_seg" in output:  # a model that knows no `labels_only`
            output["label_scores"], output["labels"] = output["sem_seg"].max(dim=0)
        if "labels" in output:
            labels, scores = output["labels"], output["label_scores"]
            output, threshold = semantic_segments(labels, scores, threshold, output.get("background")), 0.0
        if "panoptic_seg" in output:
            ids, segments = output["panoptic_seg"]
            return {"panoptic_seg": (ids.cpu(), [s for s in segments if s["score"] >= threshold])}
        return {"instances": output["instances"].to("cpu")}

    @property
    def drawn_threshold(self) -> float:
        """The lowest score of a box that is drawn."""
        return 0.3 if self.threshold is None else self.threshold

    def draw(self, image: Tensor, output: dict[str, Any]) -> Image.Image:
        """Draw an output over its image."""
        return draw_predictions(image, output, self.names, self.is_base, self.drawn_threshold)


@dataclass
class Found:
    """What was found and drawn of each word, by its name.

    Attributes:
        counts: predictions.
        images: images and frames with at least one.
        best: the highest score.
    """

    counts: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Count the records of an image, or of a frame."""
        for result in results:
            name = result["name"]
            self.counts[name] = self.counts.get(name, 0) + 1
            self.best[name] = max(self.best.get(name, 0.0), result["score"])
        for name in {result["name"] for result in results}:
            self.images[name] = self.images.get(name, 0) + 1

    def rows(self) -> list[tuple[str, int, int, float]]:
        """Name, predictions, images and best score, the most frequent word first."""
        names = sorted(self.counts, key=lambda name: -self.counts[name])
        return [(name, self.counts[name], self.images[name], self.best[name]) for name in names]


def set_classes(
    cfg: DictConfig, words: Words, novel: Sequence[str] | None = None, stuff: Sequence[str] | None = None
) -> list[bool]:
    """Replace the classes of a config's model by a user's words.

    Args:
        cfg: its `model.vocabulary` has the text tower, and names the data set whose classes tell which words are base
            classes and which are stuff (by any synonym; upper and lower case are the same).
        words: for each class its synonyms, the first of which is its name.
        novel: names of the novel classes. None: those that are no base class of the data set.
        stuff: names of the classes that a panoptic segmenter makes one segment of. None: the data set's stuff.

    Returns:
        For each class whether it is a base class.

    Raises:
        InputError: a config of another task, or a name in `stuff` that is no class.
    """
    node = cfg.model.get("vocabulary")
    has_text = isinstance(node, DictConfig) and isinstance(node.get("text"), DictConfig)
    if not has_text or not node.get("dataset") or not cfg.dataloader.get("test"):
        raise InputError(
            "the config has no text tower, data set or test loader (model.vocabulary.text and .dataset, "
            "dataloader.test): use one of configs/detection, configs/panoptic or configs/semantic"
        )
    names = [synonyms[0] for synonyms in words]
    check_registered(node.dataset)
    of_scenes = "stuff_classes" in MetadataCatalog.get(node.dataset).as_dict()
    if novel is None:
        known = seen_classes(base_classes(node.dataset, stuff=of_scenes), words, ignore_case=True)
        novel = [name for name, is_base in zip(names, known, strict=True) if not is_base]
    background = None if of_scenes else "background"
    vocabulary = functools.partial(Vocabulary.from_classes, words, novel=novel, background=background)
    cfg.model.vocabulary = LazyCall(vocabulary)(text=node.text)
    if "test_vocabulary" in cfg.model:
        cfg.model.test_vocabulary = "${model.vocabulary}"
    if "isthing" in cfg.model:
        if stuff is None:
            known = seen_classes(dataset_stuff(node.dataset), words, ignore_case=True)
            stuff = [name for name, is_stuff in zip(names, known, strict=True) if is_stuff]
        elif unknown := [name for name in stuff if name not in names]:
            raise InputError(f"stuff {unknown[0]!r} is not among the words: give the first of its synonyms")
        cfg.model.update(isthing=[name not in stuff for name in names], tasks=["panoptic_seg"])
    elif stuff is not None:
        raise InputError("--stuff is for configs/panoptic: the other models do not tell stuff from things")
    return [name not in novel for name in names]


def predict_files(
    predictor: Predictor,
    files: Sequence[Path | Stream],
    output_dir: Path,
    *,
    save_txt: bool = False,
    resume: bool = False,
) -> tuple[Found, int]:
    """Write for every image or video the same with its predictions drawn, and a json of them; ranks share the files.

    Args:
        predictor: the model.
        files: images, videos and streams; Ctrl-C ends a stream, whose results are kept.
        output_dir: where `NAME.jpg`, `.gif` or `.mp4` and `NAME.json` go, see `output_stems`. The ``image_id`` of a
            record is the number in the image's name, else the place of its file; in a video it is the number of the
            frame.
        save_txt: also write YOLO's labels of what is drawn: `NAME.txt` for an image, `NAME_FRAME.txt` for a frame, and
            `classes.txt`, the words by their numbers.
        resume: leave out files that have their json.

    Returns:
        What was found, and the number of files that could not be read, each of which is logged; of all ranks.

    Raises:
        InputError: results would go into a folder of the inputs, or no file can be read.
    """
    stems = output_stems(files, output_dir)
    folders = {file.resolve().parent for file in files if isinstance(file, Path)}
    if {stem.parent.resolve() for stem in stems} & folders:
        raise InputError(f"{output_dir}: has the inputs, which would be overwritten: name another folder for results")
    jsons = [stem.with_name(f"{stem.name}.json") for stem in stems]
    failed: list[int] = []
    mine = range(comm.get_rank(), len(files), comm.get_world_size())
    for number in tqdm(mine, "files", unit="file", disable=len(files) == 1 or comm.get_rank() > 0):
        if resume and jsons[number].exists():
            continue
        try:
            _predict_file(predictor, files[number], stems[number], number, save_txt)
        except ImageError as error:
            failed.append(number)
            if len(failed) == len(files):
                raise
            logger.warning("Skipped: %s", error)
    failed = [number for numbers in comm.all_gather(failed) for number in numbers]
    if len(failed) == len(files):
        raise InputError(f"none of the {len(files)} inputs can be read")
    found = Found()
    for path in (path for number, path in enumerate(jsons) if number not in failed):
        for _, records in groupby(json.loads(path.read_text()), lambda record: record["image_id"]):
            found.add(_drawn(predictor, records))
    if save_txt and comm.is_main_process():
        _write_text(output_dir / "classes.txt", "".join(f"{name}\n" for name in predictor.names))
    return found, len(failed)


def _drawn(predictor: Predictor, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that are drawn: all segments, and boxes of some score."""
    return [record for record in records if "bbox" not in record or record["score"] >= predictor.drawn_threshold]


def _predict_file(predictor: Predictor, file: Path | Stream, stem: Path, number: int, save_txt: bool) -> None:
    source = open_frames(file)
    results: list[dict[str, Any]] = []
    stopped = threading.Event()
    image_id = int(file.stem) if file.stem.isdecimal() else number

    def drawn() -> Iterator[Image.Image]:
        bar = tqdm(source.frames, file.name, source.count or None, unit="frame", leave=False, disable=source.count == 1)
        for frame, image in enumerate(bar):
            output = predictor(image, str(file))
            records = to_results(output, predictor.names, predictor.is_base, frame if source.fps else image_id)
            results.extend(records)
            if save_txt:
                height, width = image.shape[1:]
                name = f"{stem.name}_{frame}.txt" if source.fps else f"{stem.name}.txt"
                _write_text(stem.with_name(name), to_yolo(_drawn(predictor, records), height, width))
            yield predictor.draw(image, output)
            if stopped.is_set():
                return

    with signal_handlers([signal.SIGINT] if isinstance(file, Stream) else [], lambda _: stopped.set()):
        write_frames(stem, drawn(), source)
    _write_text(stem.with_name(f"{stem.name}.json"), "[" + ",\n".join(map(json.dumps, results)) + "]\n")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text))
