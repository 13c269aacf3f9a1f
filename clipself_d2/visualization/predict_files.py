"""A `Predictor` on files: images, videos and streams, and what was found in them."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from matplotlib.figure import Figure
from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.command_line import signal_handlers
from clipself_d2.data import ImageError
from clipself_d2.errors import InputError
from clipself_d2.evaluation.json_results import to_results, to_yolo
from clipself_d2.files import Stream, output_stems
from clipself_d2.visualization.figures import figure_to_image, save_figure
from clipself_d2.visualization.media import open_frames, write_frames
from clipself_d2.visualization.predictor import Predictor

logger = logging.getLogger(__name__)


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


def predict_files(
    predictor: Predictor,
    files: Sequence[Path | Stream],
    output_dir: Path,
    *,
    image_format: str = "jpg",
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
        image_format: "jpg", or "pdf" or "svg" with boxes and names as vectors; animations and videos stay such.
        save_txt: also write YOLO's labels of what is drawn: `NAME.txt` for an image, `NAME_FRAME.txt` for a frame, and
            `classes.txt`, the words by their numbers.
        resume: leave out files that have their json.

    Returns:
        What was found, and the number of files that could not be read, each of which is logged; of all ranks.

    Raises:
        InputError: see `output_stems`, or no file can be read.
    """
    stems = output_stems(files, output_dir)
    jsons = [stem.with_name(f"{stem.name}.json") for stem in stems]
    failed: list[int] = []
    mine = range(comm.get_rank(), len(files), comm.get_world_size())
    for number in tqdm(mine, "files", unit="file", disable=len(files) == 1 or comm.get_rank() > 0):
        if resume and jsons[number].exists():
            continue
        try:
            _predict_file(predictor, files[number], stems[number], number, image_format, save_txt)
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


def _predict_file(
    predictor: Predictor, file: Path | Stream, stem: Path, number: int, image_format: str, save_txt: bool
) -> None:
    source = open_frames(file)
    results: list[dict[str, Any]] = []
    stopped = threading.Event()
    image_id = int(file.stem) if file.stem.isdecimal() else number

    def drawn() -> Iterator[Figure]:
        bar = tqdm(source.frames, file.name, source.count or None, unit="frame", leave=False, disable=source.count == 1)
        for frame, image in enumerate(bar):
            output = predictor(image, str(file))
            records = to_results(output, predictor.names, predictor.is_base, frame if source.fps else image_id)
            results.extend(records)
            if save_txt:
                height, width = image.shape[1:]
                name = f"{stem.name}_{frame}.txt" if source.fps else f"{stem.name}.txt"
                _write_text(stem.with_name(name), to_yolo(_drawn(predictor, records), height, width))
            yield predictor.figure(image, output)
            if stopped.is_set():
                return

    with signal_handlers([signal.SIGINT] if isinstance(file, Stream) else [], lambda _: stopped.set()):
        if image_format == "jpg" or source.fps:
            write_frames(stem, map(figure_to_image, drawn()), source)
        else:
            save_figure(next(drawn()), stem.with_name(f"{stem.name}.{image_format}"))
    _write_text(stem.with_name(f"{stem.name}.json"), "[" + ",\n".join(map(json.dumps, results)) + "]\n")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text))
