"""Panoptic segmentation of anybody's pictures, with anybody's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import Tensor, nn

from clipself_d2.data.vocabulary import dataset_things
from clipself_d2.engine.config import build
from clipself_d2.errors import InputError
from clipself_d2.evaluation.ground_truth import json_mask
from clipself_d2.vocabulary import Vocabulary, build_vocabulary

Segmentation = tuple[Tensor, list[dict[str, Any]]]


def user_vocabulary(
    cfg: DictConfig,
    classes: Sequence[Sequence[str]],
    novel: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
) -> tuple[Vocabulary, list[bool]]:
    """Embeds a user's words by the text tower of a panoptic config.

    Args:
        cfg: exports `model.vocabulary.text`, a `TextClassifier`, and `model.vocabulary.dataset`, whose classes tell
            what was seen and what is stuff; upper and lower case are the same.
        classes: a class is a sequence of synonyms, the first of which is its name.
        novel: names of the classes that the mask generator never saw. None: those that are no seen class of the data
            set, by any synonym.
        stuff: names of the classes of which each is one segment. None: those that are stuff in the data set.

    Returns:
        The vocabulary, and for each class whether it is a thing.

    Raises:
        InputError: a config without these, a name in `stuff` that is no class, or words that make no vocabulary.
    """
    node = cfg.model.get("vocabulary")
    if not isinstance(node, DictConfig) or not node.get("dataset") or "isthing" not in cfg.model:
        raise InputError("the config is not of panoptic segmentation: use one of configs/panoptic")
    names = [synonyms[0] for synonyms in classes]
    if unknown := [name for name in stuff or () if name not in names]:
        raise InputError(f"stuff {unknown[0]!r} is not among the words: give the first of its synonyms")
    seen_words, stuff_words = _known_words(node.dataset)
    folded = [set(map(str.casefold, synonyms)) for synonyms in classes]
    if novel is None:
        novel = [name for name, words in zip(names, folded, strict=True) if words.isdisjoint(seen_words)]
    if stuff is None:
        stuff = [name for name, words in zip(names, folded, strict=True) if not words.isdisjoint(stuff_words)]
    text = build(cfg, "model.vocabulary.text")
    vocabulary = build_vocabulary(classes, text, novel=novel, background=None)
    return vocabulary, [name not in stuff for name in names]


def _known_words(dataset: str) -> tuple[set[str], set[str]]:
    """The names of a data set's seen classes, and of its stuff."""
    things = dataset_things(dataset)
    metadata = MetadataCatalog.get(dataset).as_dict()
    names, novel = metadata["stuff_classes"], metadata.get("novel_classes", ())
    synonyms = metadata.get("class_synonyms") or [[name] for name in names]
    seen, stuff = set[str](), set[str]()
    for name, words, thing in zip(names, synonyms, things, strict=True):
        folded = set(map(str.casefold, words))
        seen |= set() if name in novel else folded
        stuff |= set() if thing else folded
    return seen, stuff


def segment(
    model: nn.Module,
    images: Iterable[Tensor],
    vocabulary: Vocabulary,
    isthing: Sequence[bool],
    precision: Any,
    file_name: str = "",
) -> Iterator[tuple[Tensor, Segmentation]]:
    """Runs a model on images.

    Args:
        model: an `OpenVocabularyPanoptic` in evaluation mode.
        images: 3 x H x W uint8 RGB, of any sizes.
        vocabulary: the classes to look for.
        isthing: which of them are things.
        precision: a context in which the model runs, as `engine.inference.autocast` gives.
        file_name: where the images come from; `SavedMasks` finds its file by it.

    Yields:
        Each image with its segment ids (H x W int) and segments, on the CPU.
    """
    for image in images:
        sample = {"image": image, "height": image.shape[1], "width": image.shape[2], "file_name": file_name}
        with torch.inference_mode(), precision:
            ids, segments = model([sample], vocabulary=vocabulary, isthing=isthing)[0]["panoptic_seg"]
        yield image, (ids.cpu(), segments)


def to_results(
    found: Segmentation, vocabulary: Vocabulary, image_id: int, threshold: float = 0.0
) -> list[dict[str, Any]]:
    """The segments of an image for a json, largest first.

    Returns:
        ``image_id``, ``id``, ``category_id`` (from 0, in the vocabulary's order), ``name``, ``isthing``, ``seen``,
        ``score``, ``area`` in pixels and ``segmentation``, COCO's RLE, of those whose score reaches the threshold.
    """
    ids, segments = found
    seen = vocabulary.is_base.tolist()
    results = []
    for s in segments:
        if s["score"] < threshold:
            continue
        mask = ids == s["id"]
        results.append(
            {
                "image_id": image_id,
                "id": s["id"],
                "category_id": s["category_id"],
                "name": vocabulary.names[s["category_id"]],
                "isthing": s["isthing"],
                "seen": seen[s["category_id"]],
                "score": round(s["score"], 4),
                "area": int(mask.sum()),
                "segmentation": json_mask(mask),
            }
        )
    return sorted(results, key=lambda result: -result["area"])


def shown_ids(ids: Tensor, results: Sequence[Mapping[str, Any]]) -> Tensor:
    """The segment ids without those that `to_results` left out."""
    return ids.where(torch.isin(ids, torch.tensor([r["id"] for r in results], dtype=ids.dtype)), 0)
