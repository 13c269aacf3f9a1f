"""Zero-shot region classification: top-1 and top-5 accuracy, averaged over classes (mAcc; paper tables 1 and 2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from clipself_d2.data.catalog import metadata_of
from clipself_d2.errors import InputError
from clipself_d2.evaluation.summary import write_json

logger = logging.getLogger(__name__)

TOP_KS = (1, 5)

_MAX_ELEMENTS = 2**26  # cosines that are held at once

# Task -> the embeddings that it evaluates, and whether those of things or of stuff.
TASKS = {
    "boxes": ("boxes", True),
    "thing_masks": ("masks", True),
    "stuff_masks": ("masks", False),
    "crops": ("crops", True),
}


def mean_class_accuracy(hits: Tensor, regions: Tensor) -> float:
    """Average the accuracy over the classes that have regions.

    Args:
        hits: K, regions of each class that were classified correctly.
        regions: K, regions of each class.

    Returns:
        A percentage; NaN without regions.
    """
    present = regions > 0
    return 100 * (hits[present].double() / regions[present].double()).mean().item()


def classes_above(embeddings: Tensor, labels: Tensor, text: Tensor) -> Tensor:
    """Count the other classes that are at least as near to a region as its own, in fp32.

    Args:
        embeddings: R x C unit vectors. One that is not finite has every other class above its own.
        labels: R, the regions' classes.
        text: K x C unit vectors of the classes.

    Returns:
        R long in 0..K-1.
    """
    above = []
    with torch.autocast(embeddings.device.type, enabled=False):
        chunk = max(1, _MAX_ELEMENTS // max(1, len(text)))
        for part, own in zip(embeddings.split(chunk), labels.split(chunk), strict=True):
            cosines = part.float() @ text.T
            above.append(len(text) - 1 - (cosines < cosines.gather(1, own[:, None])).sum(dim=1))
    return torch.cat(above)


class RegionClassificationEvaluator(DatasetEvaluator):
    """Classify the embeddings of labeled regions by their cosines with the texts of all classes, of things and stuff.

    The tasks are ``boxes``, ``thing_masks``, ``stuff_masks`` and ``crops`` (of things), each with ``top1`` and ``top5``
    in percent. A task without embeddings or regions is absent.

    Args:
        dataset_name: a data set of panoptic regions, whose metadata has ``region_classes``.
        text: K x C embeddings of the classes in that order, or a function that makes them from the names, such as
            `TextClassifier`. It is called once, when the first embeddings arrive.
        output_dir: the main process writes the accuracy of every class to ``region_accuracy.json`` here. None: nowhere.
    """

    def __init__(
        self,
        dataset_name: str,
        text: Tensor | Callable[[Sequence[str]], Tensor],
        output_dir: str | Path | None = None,
    ):
        self.dataset_name = dataset_name
        self._folder = None if output_dir is None else Path(output_dir)
        self._text = text
        self.reset()

    def reset(self) -> None:
        """Forget all regions."""
        self._text_embeddings: Tensor | None = None
        self._counts: dict[str, Tensor] = {}  # regions and hits of the TOP_KS by class
        self._skipped = 0

    @torch.no_grad()
    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]) -> None:
        """Count the regions of some images, and the hits among them.

        A class that ties with the right one counts as better. Embeddings of zeros, or not finite, are misses.

        Args:
            inputs: samples with ``classes`` (R long).
            outputs: for each any of ``boxes``, ``masks`` and ``crops``: R x C unit embeddings.
        """
        self._skipped += sum(sample.get("skipped_segments", 0) for sample in inputs)
        for field in {field: None for output in outputs for field in output}:
            found = [(x["classes"], y[field]) for x, y in zip(inputs, outputs, strict=True) if field in y]
            labels, embeddings = (torch.cat(parts) for parts in zip(*found, strict=True))
            labels = labels.to(embeddings.device, non_blocking=True)
            text = self._class_embeddings(embeddings.device)
            above = classes_above(embeddings, labels, text)
            marks = torch.stack([torch.ones_like(above), *((above < k).long() for k in TOP_KS)])
            if field not in self._counts:
                self._counts[field] = marks.new_zeros(len(marks), len(text))
            self._counts[field].index_add_(1, labels, marks)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Sum over all ranks.

        Returns:
            On all ranks ``{"boxes": {"top1", "top5"}, "thing_masks": .., "stuff_masks": .., "crops": ..}``.

        Raises:
            InputError: if there was no region at all.
        """
        gathered = comm.all_gather(({field: counts.cpu() for field, counts in self._counts.items()}, self._skipped))
        totals: dict[str, Tensor] = {}
        for counts, _ in gathered:
            for field, count in counts.items():
                totals[field] = totals.get(field, torch.zeros_like(count)) + count
        if not any(total[0].any() for total in totals.values()):
            raise InputError(f"data set {self.dataset_name!r} gave no region to classify: check its annotations")

        isthing = torch.tensor(self._metadata().region_isthing)
        results: dict[str, dict[str, float]] = {}
        table: dict[str, dict[str, dict[str, float]]] = {}
        for task, (field, things) in TASKS.items():
            if field not in totals or not (totals[field][0] * (isthing == things)).any():
                continue
            regions, *hits = totals[field] * (isthing == things)
            results[task] = {f"top{k}": mean_class_accuracy(h, regions) for k, h in zip(TOP_KS, hits, strict=True)}
            table[task] = self._by_class(regions, hits)
            logger.info("%s: %d regions of %d classes", task, regions.sum(), (regions > 0).sum())
        if skipped := sum(number for _, number in gathered):
            logger.info("%d segments were left out by the protocol (too small, too large or without a pixel)", skipped)
        if comm.is_main_process():
            write_json(self._folder, "region_accuracy.json", table)
        return results

    def _by_class(self, regions: Tensor, hits: Sequence[Tensor]) -> dict[str, dict[str, float]]:
        names = self._metadata().region_classes
        return {
            names[i]: {
                "regions": int(regions[i]),
                **{f"top{k}": 100 * (h[i] / regions[i]).item() for k, h in zip(TOP_KS, hits, strict=True)},
            }
            for i in regions.nonzero()[:, 0].tolist()
        }

    def _class_embeddings(self, device: torch.device) -> Tensor:
        if self._text_embeddings is None:
            names = list(self._metadata().region_classes)
            text = self._text(names) if callable(self._text) else self._text
            if text.ndim != 2 or len(text) != len(names):
                raise InputError(
                    f"text embeddings are {tuple(text.shape)}, data set {self.dataset_name!r} has {len(names)} "
                    "classes: give one row per class"
                )
            self._text_embeddings = F.normalize(text.detach().float(), dim=-1)
        self._text_embeddings = self._text_embeddings.to(device)
        return self._text_embeddings

    def _metadata(self) -> Metadata:
        return metadata_of(self.dataset_name, "region_classes")
