"""A walk over a data set that ranks share and that goes on where it was stopped: its results are those of one rank."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from torch.utils.data import BatchSampler
from tqdm import tqdm

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.data.loader import build_test_loader
from clipself_d2.errors import InputError

_SAMPLE = ("image_id", "file_name", "height", "width")


class Walk:
    """Applies a function to every image of a data set; the results are in `OUTPUT.parts` until `OUTPUT` is written.

    Ranks share batches of fixed images, whatever their number. A batch that has all results is not read again.

    Args:
        output: the file that will be written from the results.
        records: the images, of unique `image_id`.
        settings: what the results depend on; parts of other settings are refused.
        batch_size: images per batch.

    Raises:
        InputError: the parts are of other settings.
    """

    def __init__(
        self, output: Path, records: Sequence[dict[str, Any]], settings: Mapping[str, Any], batch_size: int
    ) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self.records = records
        self.batches = list(BatchSampler(range(len(records)), batch_size, drop_last=False))
        if comm.is_main_process():
            self._check({**settings, "images": len(records), "batch_size": batch_size})
        comm.synchronize()

    def run(
        self,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        process: Callable[[list[dict[str, Any]]], Sequence[Any]],
        num_workers: int,
    ) -> None:
        """Compute the results that are missing, on all ranks.

        Args:
            mapper: called with a record; its sample has `image_id`, `file_name`, `height` and `width`.
            process: called with the samples of a batch; gives the result of each, of json's types and not None.
            num_workers: processes that read, on each rank.

        Raises:
            InputError: see `build_test_loader`.
        """
        done = self._places()
        todo = [batch for batch in self.batches if any(self.records[i]["image_id"] not in done for i in batch)]
        comm.synchronize()  # all ranks have seen the same
        mine = todo[comm.get_rank() :: comm.get_world_size()]
        loader = build_test_loader(self.records, mapper, num_workers, batches=mine)
        bar = tqdm(
            loader, self.folder.stem, len(mine), unit=" batches", dynamic_ncols=True, disable=comm.get_rank() > 0
        )
        unreadable = {self.records[i]["image_id"] for batch in mine for i in batch}
        with (self.folder / f"{uuid.uuid4().hex}.jsonl").open("x", encoding="utf-8") as file:
            for samples in bar:
                for sample, result in zip(samples, process(samples), strict=True):
                    file.write(json.dumps([{key: sample[key] for key in _SAMPLE}, result]) + "\n")
                    unreadable.remove(sample["image_id"])
                file.flush()
            for image_id in unreadable:  # are not tried again
                file.write(json.dumps([{"image_id": image_id}, None]) + "\n")
        comm.synchronize()

    def results(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Each readable image's sample, without pixels, and its result, in the order of the data set."""
        places = self._places()
        with ExitStack() as stack:
            files = {path: stack.enter_context(path.open("rb")) for path in {path for path, _ in places.values()}}
            for record in self.records:
                if record["image_id"] in places:
                    path, start = places[record["image_id"]]
                    files[path].seek(start)
                    sample, result = json.loads(files[path].readline())
                    if result is not None:
                        yield sample, result

    def remove(self) -> None:
        """Delete the parts."""
        shutil.rmtree(self.folder)

    def _check(self, settings: Mapping[str, Any]) -> None:
        path, text = self.folder / "settings.json", json.dumps(settings, indent=2)
        if not path.exists():
            write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
        elif path.read_text(encoding="utf-8") != text:
            raise InputError(f"{self.folder}: has results of other settings (settings.json): remove this folder")

    def _places(self) -> dict[Any, tuple[Path, int]]:
        """The file and the byte of each image's result; a line that a kill cut short is none."""
        places = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            start = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        places[json.loads(line)[0]["image_id"]] = path, start
                    start += len(line)
        return places
