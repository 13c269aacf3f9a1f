"""A detector on anybody's pictures, with anybody's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from clipself_d2.data.vocabulary import dataset_classes
from clipself_d2.engine.config import build
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import Vocabulary, build_vocabulary


def user_vocabulary(
    cfg: DictConfig, classes: Sequence[Sequence[str]], novel: Sequence[str] | None = None
) -> Vocabulary:
    """Embeds a user's words by the text tower of a detector's config.

    Args:
        cfg: exports `model.vocabulary.text`, a `TextClassifier`, and `model.vocabulary.dataset`, whose base classes the
            detector was trained on.
        classes: a class is a sequence of synonyms, the first of which is its name.
        novel: names of the classes that the detector never saw. None: those that are no base class of the data set, by
            any synonym; upper and lower case are the same.

    Raises:
        InputError: a config without these, or words that make no vocabulary (see `Vocabulary`).
    """
    node = cfg.model.get("vocabulary")
    if not isinstance(node, DictConfig) or not isinstance(node.get("text"), DictConfig):
        raise InputError(
            "the config has no text tower (model.vocabulary.text): use one of F-ViT, configs/detection/fvit_*"
        )
    if novel is None:
        base = _base_words(node)
        novel = [synonyms[0] for synonyms in classes if not base.intersection(map(str.casefold, synonyms))]
    return build_vocabulary(classes, build(cfg, "model.vocabulary.text"), novel=novel)


def _base_words(node: DictConfig) -> set[str]:
    if not node.get("dataset"):
        raise InputError("the config names no data set (model.vocabulary.dataset): say --novel which words are unseen")
    classes, novel = dataset_classes(node.dataset)
    synonyms = ([entry] if isinstance(entry, str) else list(entry) for entry in classes)
    return {word.casefold() for words in synonyms if words[0] not in novel for word in words}


def detect(
    model: nn.Module, images: Iterable[Tensor], vocabulary: Vocabulary, batch_size: int, precision: Any
) -> Iterator[tuple[Tensor, Instances]]:
    """Runs a detector.

    Args:
        model: `model(inputs, vocabulary=...) -> [{"instances": Instances}]`, in evaluation mode.
        images: 3 x H x W uint8 RGB, of any sizes.
        vocabulary: the classes to look for.
        batch_size: images at once.
        precision: a context in which the model runs, as `engine.inference.autocast` gives.

    Yields:
        Each image with its detections (`pred_boxes` in its pixels, `scores`, `pred_classes`), on the CPU.
    """
    batch: list[Tensor] = []
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            yield from _detect(model, batch, vocabulary, precision)
            batch = []
    if batch:
        yield from _detect(model, batch, vocabulary, precision)


def _detect(
    model: nn.Module, batch: Sequence[Tensor], vocabulary: Vocabulary, precision: Any
) -> list[tuple[Tensor, Instances]]:
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in batch]
    with torch.inference_mode(), precision:
        outputs = model(inputs, vocabulary=vocabulary)
    return [(image, output["instances"].to("cpu")) for image, output in zip(batch, outputs, strict=True)]


def to_results(found: Instances, vocabulary: Vocabulary, image_id: int) -> list[dict[str, Any]]:
    """Detections of an image as COCO's results, with names.

    Returns:
        Best first: `image_id`, `category_id` (from 0, in the vocabulary's order), `bbox` (x, y, width, height in
        pixels), `score`, and besides COCO's fields `name` and `seen`, whether the detector was trained on the class.
    """
    found = found[found.scores.argsort(descending=True, stable=True)]
    seen = vocabulary.is_base.tolist()
    columns = (found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist())
    return [
        {
            "image_id": image_id,
            "category_id": label,
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 4),
            "name": vocabulary.names[label],
            "seen": seen[label],
        }
        for (x0, y0, x1, y1), score, label in zip(*columns, strict=True)
    ]
