"""Predicted masks of any system, read from files; `standalone/clipself_masks.py` writes them and has the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipself_d2.errors import InputError
from clipself_d2.panoptic.class_links import link_by_name, link_classes
from clipself_d2.panoptic.masks import MaskPredictions, binary_logits
from clipself_d2.panoptic.standalone.clipself_masks import FORMAT
from clipself_d2.schema import parse_json
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary
from clipself_d2.vocabulary.synonyms import embed_synonyms

Classes = tuple[tuple[str, ...], ...]


class SavedMasks:
    """A mask generator that reads what another one predicted; see `save_predictions` and `clipself save-masks`.

    Scores over the file's classes become scores over the call's by name (`same_classes`). If either side has classes
    that the other lacks, probability is shared by the similarity of texts (`link_classes`), which needs a text
    classifier. Void stays void.

    Args:
        folder: holds `NAME.safetensors` for an image `NAME.jpg`.
        text: a `TextClassifier` of the CLIP that embeds the vocabularies. None: the file's classes must be those of the
            call, in any order.
        temperature: factor of the cosines in `link_classes`.

    Raises:
        InputError: the folder does not exist.
    """

    def __init__(
        self, folder: str | Path, text: Callable[[ClassNames], Tensor] | None = None, temperature: float = 100.0
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of saved masks: write one with clipself save-masks")
        self.text = text
        self.temperature = temperature
        # Links of the last file's classes with the last call's: usually those of all files and calls.
        self._last: tuple[Classes, Vocabulary, Tensor] | None = None

    def __call__(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """Read the masks of images, as a `MaskGenerator`.

        Raises:
            InputError: a file that is missing, damaged, of another format or of another image; classes that cannot be
                linked with those of the vocabulary.
        """
        return [self._read(sample, vocabulary) for sample in inputs]

    def _read(self, sample: Mapping[str, Any], vocabulary: Vocabulary) -> MaskPredictions:
        path = self.folder / f"{Path(sample['file_name']).stem}.safetensors"
        if not path.is_file():
            raise InputError(f"{path}: is missing: save the masks of {sample['file_name']} (clipself save-masks)")
        predictions, classes, size = read_predictions(path)
        height, width = sample["image"].shape[-2:]
        if size != (height, width):
            raise InputError(
                f"{path}: holds masks of an image of {size[1]} x {size[0]} pixels, {sample['file_name']} has {width} x "
                f"{height}: save the masks of this image"
            )
        links = self._link(path, classes, vocabulary)
        # In double precision, which keeps the logarithm of the smallest probabilities.
        probabilities = predictions.log_scores.double().exp()
        scores = torch.cat([probabilities[:, :-1] @ links.double(), probabilities[:, -1:]], dim=1)
        return MaskPredictions(predictions.masks, scores.log().float(), predictions.mask_iou)

    def _link(self, path: Path, classes: Classes, vocabulary: Vocabulary) -> Tensor:
        if self._last is None or self._last[0] != classes or self._last[1] is not vocabulary:
            if self.text is None:
                links = link_by_name(classes, vocabulary, str(path))
            else:
                embeddings = embed_synonyms(self.text, classes).to(vocabulary.text_embeddings.device)
                links = link_classes(classes, embeddings, vocabulary, self.temperature).cpu()
            self._last = (classes, vocabulary, links)
        return self._last[2]


def read_predictions(path: str | Path) -> tuple[MaskPredictions, Classes, tuple[int, int]]:
    """Read a file of saved masks.

    Returns:
        The predictions over the file's classes, these classes with their synonyms, and rows and columns of the image.

    Raises:
        InputError: a file that is no safetensors, of another format, or whose tensors are of the wrong type or shape.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}): save the masks again") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {metadata.get('format')!r}, not {FORMAT!r}: use save_predictions")
    try:
        classes = tuple(check_vocabulary(parse_json(metadata["classes"].encode(), list[list[str]], path)))
        height, width = int(metadata["height"]), int(metadata["width"])
        masks, log_scores = tensors["masks"], tensors["log_scores"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: lacks or garbles {error}: use save_predictions") from error
    if masks.dtype == torch.uint8:
        masks = _unpack(masks, metadata.get("mask_width", ""), path)
    # NaN is not at most 0 either; a little more is a rounding error.
    if not log_scores.is_floating_point() or not bool((log_scores <= 1e-3).all()):
        raise InputError(f"{path}: log_scores are not log probabilities: use save_predictions")
    predictions = MaskPredictions(masks, log_scores.float(), tensors.get("mask_iou"))
    return predictions.check(height, width, len(classes), str(path)), classes, (height, width)


def _unpack(packed: Tensor, width: str, path: str | Path) -> Tensor:
    if packed.ndim != 3 or not width.isdecimal() or packed.shape[2] != -(-int(width) // 8):
        raise InputError(
            f"{path}: binary masks are {tuple(packed.shape)} bytes and mask_width is {width!r}: give "
            "Q x h x ceil(w / 8) and w"
        )
    return binary_logits(torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=int(width))))
