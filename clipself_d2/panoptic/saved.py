"""Predicted masks of any system in files: one safetensors file per image, named after it.

Tensors:

- `masks`: Q x h x w float16, bfloat16 or float32 logits of the whole image, above 0 inside; or binary masks, Q x h x
  ceil(w / 8) uint8, eight pixels of a row per byte, the first in the highest bit (`numpy.packbits`).
- `log_scores`: Q x (N + 1) float32 log probabilities over the file's classes, void last.
- `mask_iou`: Q float32 in 0..1; may be absent.

Metadata, all strings: `format` ("clipself_d2.masks.1"), `classes` (a json list of N lists of synonyms), `height` and
`width` of the image in pixels, and `mask_width` (w) of binary masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.errors import InputError
from clipself_d2.panoptic.class_links import link_by_name, link_classes
from clipself_d2.panoptic.masks import MaskPredictions, binary_logits
from clipself_d2.schema import parse_json
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary
from clipself_d2.vocabulary.synonyms import embed_synonyms

FORMAT = "clipself_d2.masks.1"

Classes = tuple[tuple[str, ...], ...]


class SavedMasks:
    """A mask generator that reads what another one predicted; see `save_predictions` and `tools/save_masks.py`.

    Scores over the file's classes become scores over the call's by name: two classes are one if they share a synonym,
    letter for letter. If either side has classes that the other lacks, probability is shared by the similarity of
    texts (`link_classes`), which needs a text classifier. Void stays void.

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
            raise InputError(f"{folder}: there is no such folder of saved masks: write one with tools/save_masks.py")
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
            raise InputError(f"{path}: is missing: save the masks of {sample['file_name']} (tools/save_masks.py)")
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


def save_predictions(
    folder: str | Path,
    file_name: str | Path,
    masks: Tensor,
    log_scores: Tensor,
    classes: ClassNames,
    height: int,
    width: int,
    *,
    mask_iou: Tensor | None = None,
    content: tuple[float, float] = (1.0, 1.0),
    longest: int | None = 512,
) -> Path:
    """Write the predictions for one image; call it in another project's inference loop.

    Args:
        folder: where the file goes; it is created.
        file_name: of the image; its stem names the file.
        masks: Q x h x w logits, above 0 inside, stored in fp16; or bool, stored as bits at their own resolution.
        log_scores: Q x (N + 1) class logits or log probabilities, void last; their log-softmax is stored.
        classes: N names or lists of synonyms.
        height: rows of the image in pixels.
        width: its columns.
        mask_iou: Q in 0..1, if the system predicts it.
        content: for logits of a padded input, the part of the rows and of the columns that the image fills.
        longest: longest side of the stored logits; larger ones are reduced. None: no limit.

    Returns:
        The file.

    Raises:
        InputError: tensors that do not fit each other, a repeated name.
        OSError: the file cannot be written.
    """
    # Other projects repeat names within a class.
    names = check_vocabulary([[c] if isinstance(c, str) else list(dict.fromkeys(c)) for c in classes])
    path = Path(folder) / f"{Path(file_name).stem}.safetensors"
    rows, columns = (max(1, round(part * side)) for part, side in zip(content, masks.shape[-2:], strict=True))
    masks = masks.detach()[..., :rows, :columns]
    binary = masks.dtype == torch.bool
    log_probabilities = log_scores.detach().float().log_softmax(dim=-1)
    checked = MaskPredictions(masks.half() if binary else masks, log_probabilities, mask_iou)
    checked.check(height, width, len(names), f"masks of {file_name}")

    metadata = {"format": FORMAT, "classes": json.dumps(names), "height": str(height), "width": str(width)}
    tensors = {"log_scores": log_probabilities}
    if binary:
        metadata["mask_width"] = str(columns)
        tensors["masks"] = torch.from_numpy(np.packbits(masks.cpu().numpy(), axis=-1))
    else:
        tensors["masks"] = _reduce(masks.float(), longest).half()
    if mask_iou is not None:
        tensors["mask_iou"] = mask_iou.detach().float()
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))
    except SafetensorError as error:  # how its writer reports a full disk
        raise OSError(f"{path}: {error}") from error
    return path


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


def _reduce(masks: Tensor, longest: int | None) -> Tensor:
    scale = 1.0 if longest is None else longest / max(masks.shape[-2:])
    if scale >= 1 or not len(masks):
        return masks
    size = [max(1, round(side * scale)) for side in masks.shape[-2:]]
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def _unpack(packed: Tensor, width: str, path: str | Path) -> Tensor:
    if packed.ndim != 3 or not width.isdecimal() or packed.shape[2] != -(-int(width) // 8):
        raise InputError(
            f"{path}: binary masks are {tuple(packed.shape)} bytes and mask_width is {width!r}: give "
            "Q x h x ceil(w / 8) and w"
        )
    return binary_logits(torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=int(width))))
