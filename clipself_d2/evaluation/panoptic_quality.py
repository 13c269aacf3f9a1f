"""Panoptic quality of every class, by panopticapi (paper table 6)."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm

from clipself_d2.errors import InputError


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """``PQ``, ``SQ`` and ``RQ`` by panopticapi, against the segments of the samples."""

    def __init__(self, dataset_name: str):
        try:
            import panopticapi.evaluation  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"panoptic quality needs panopticapi ({error}): install it as docs/install.md says"
            ) from None
        self._dataset_name = dataset_name
        self._num_classes = len(MetadataCatalog.get(dataset_name).stuff_classes)
        self.reset()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Collect ``panoptic_seg``, as a PNG in memory, and the segments to find."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "pan_seg_file_name" not in sample:
                raise InputError(f"data set {self._dataset_name!r} has no panoptic labels: evaluate sem_seg only")
            ids, segments = output["panoptic_seg"]
            # Without ``isthing`` Detectron2 leaves the numbers of the classes as they are.
            found = [{"id": int(s["id"]), "category_id": int(s["category_id"])} for s in segments]
            unique = {"image_id": sample["image_id"], "file_name": f"{comm.get_rank()}_{len(self._predictions)}"}
            super().process([unique], [{"panoptic_seg": (ids, found)}])
            truth = [{"iscrowd": 0, **s} for s in sample["segments_info"]]
            for segment, mask in zip(truth, sample["masks"], strict=True):
                segment.setdefault("area", int(mask.sum()))
            file_name = str(Path(sample["pan_seg_file_name"]).absolute())
            self._predictions[-1]["truth"] = {**unique, "file_name": file_name, "segments_info": truth}

    def evaluate(self) -> dict[str, np.ndarray]:
        """Match the segments of all images, on all cores."""
        from panopticapi.evaluation import PQStat

        predictions = list(itertools.chain.from_iterable(comm.gather(self._predictions)))
        if not comm.is_main_process():
            return {}
        stat, processes = PQStat(), os.cpu_count() or 1
        # Not panopticapi's own pool: it ends its processes by SIGTERM, and one that has only just started may miss it.
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes) as pool:
            for prediction in predictions:
                (Path(folder) / prediction["file_name"]).write_bytes(prediction.pop("png_string"))
            pairs = [(prediction["truth"], prediction) for prediction in predictions]
            shares = [[pairs[i] for i in share] for share in np.array_split(np.arange(len(pairs)), processes)]
            try:
                for part in pool.map(_match, shares, itertools.repeat(folder), itertools.repeat(self._num_classes)):
                    stat += part
            except KeyError as error:
                raise InputError(f"the segments of a prediction and its list of them differ: {error}") from error
        counts = stat.pq_per_cat.items()
        occurring: dict[int, dict[str, Any]] = {k: {} for k, count in counts if count.tp + count.fp + count.fn}
        by_class = stat.pq_average(occurring, isthing=None)[1] if occurring else {}
        table = {metric: np.full(self._num_classes, np.nan) for metric in ("PQ", "SQ", "RQ")}
        for k, row in by_class.items():
            for metric, value in row.items():
                table[metric.upper()][k] = 100 * value
        return table


def _match(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], folder: str, num_classes: int) -> Any:
    """Count the matches of some images, without panopticapi's lines of progress."""
    from panopticapi.evaluation import pq_compute_single_core

    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(0, pairs, "/", folder, range(num_classes))
