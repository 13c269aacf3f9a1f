"""Masks that any system predicted, kept in files: one safetensors file an image, named after its photograph.

Tensors:

- ``masks``: Q x h x w float16, bfloat16 or float32 logits of the whole photograph, above 0 inside; or binary masks,
  Q x h x ceil(w / 8) uint8, eight pixels of a row in a byte, the first in the highest bit (``numpy.packbits``).
- ``log_scores``: Q x (N + 1) float32 log probabilities over the file's classes, void last.
- ``mask_iou``: Q float32 in 0..1; may be absent.

Metadata, all texts: ``format`` ("clipself_d2.masks.1"), ``classes`` (a json list of N lists of synonyms), ``height``
and ``width`` of the photograph in pixels, and ``mask_width`` (w) of binary masks.
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
from clipself_d2.panoptic.masks import SURE, MaskPredictions
from clipself_d2.panoptic.transformers_masks import link_classes
from clipself_d2.vocabulary import ClassNames, Vocabulary, check_vocabulary
from clipself_d2.vocabulary.synonyms import embed_synonyms

FORMAT = "clipself_d2.masks.1"

Classes = tuple[tuple[str, ...], ...]


class SavedMasks:
    """A mask generator that reads what another one predicted; see `save_predictions` and ``tools/save_masks.py``.

    Scores over the file's classes become scores over the call's by name: two classes are one if they share a synonym,
    letter for letter. Where either side has classes that the other lacks, probability is shared by the likeness of
    texts (`link_classes`), for which a text classifier is needed. Void stays void.
    """

    def __init__(
        self,
        folder: str | Path,
        text: Callable[[ClassNames], Tensor] | None = None,
        temperature: float = 100.0,
    ) -> None:
        """Keeps the folder.

        Args:
            folder: holds ``NAME.safetensors`` for a photograph ``NAME.jpg``.
            text: a `clip.TextClassifier`, of the CLIP that the vocabularies are embedded by. None: the file's classes
                must be those of the call, in any order.
            temperature: factor of the cosines in `link_classes`.

        Raises:
            InputError: if there is no such folder.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of saved masks: write one with tools/save_masks.py")
        self.text = text
        self.temperature = temperature
        # The links of the last file's classes with the last call's: as a rule those of all.
        self._last: tuple[Classes, Vocabulary, Tensor] | None = None

    def __call__(self, inputs: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[MaskPredictions]:
        """A `MaskGenerator`'s call.

        Raises:
            InputError: a file that is missing, damaged, of another format or of another photograph; classes that
                cannot be brought to those of the vocabulary.
        """
        return [self._read(sample, vocabulary) for sample in inputs]

    def _read(self, sample: Mapping[str, Any], vocabulary: Vocabulary) -> MaskPredictions:
        path = self.folder / f"{Path(sample['file_name']).stem}.safetensors"
        if not path.is_file():
            raise InputError(f"{path}: is missing: save the masks of {sample['file_name']} (tools/save_masks.py)")
        tensors, classes, size = read_predictions(path)
        if size != tuple(sample["image"].shape[-2:]):
            height, width = sample["image"].shape[-2:]
            raise InputError(
                f"{path}: holds masks of a photograph of {size[1]} x {size[0]} pixels, {sample['file_name']} has "
                f"{width} x {height}: save the masks of this photograph"
            )
        links = self._link(path, classes, vocabulary).cpu()
        # In double precision, so that the smallest probabilities keep their logarithm.
        probabilities = tensors["log_scores"].double().exp()
        scores = torch.cat([probabilities[:, :-1] @ links.double(), probabilities[:, -1:]], dim=1)
        return MaskPredictions(tensors["masks"], scores.log().float(), tensors.get("mask_iou"))

    def _link(self, path: Path, classes: Classes, vocabulary: Vocabulary) -> Tensor:
        if self._last is None or self._last[0] != classes or self._last[1] is not vocabulary:
            self._last = (classes, vocabulary, self._make_links(path, classes, vocabulary))
        return self._last[2]

    def _make_links(self, path: Path, classes: Classes, vocabulary: Vocabulary) -> Tensor:
        if self.text is not None:
            embeddings = embed_synonyms(self.text, classes)
            return link_classes(classes, embeddings.to(vocabulary.text_embeddings.device), vocabulary, self.temperature)
        same = [[not set(theirs).isdisjoint(ours) for ours in vocabulary.classes] for theirs in classes]
        links = torch.tensor(same, dtype=torch.float32)
        for kind, names, found in (
            ("lacks class", vocabulary.names, links.any(dim=0).tolist()),
            (
                "has a class that the vocabulary lacks,",
                [synonyms[0] for synonyms in classes],
                links.any(dim=1).tolist(),
            ),
        ):
            if not all(found):
                raise InputError(
                    f"{path}: {kind} {names[found.index(False)]!r}: give the same classes, or SavedMasks(text=...), "
                    "which shares the scores by the likeness of names"
                )
        return links / links.sum(dim=1, keepdim=True)


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
    """Writes the predictions for one photograph; call it in another project's inference loop.

    Args:
        folder: where the file goes, made if need be.
        file_name: of the photograph; its stem names the file.
        masks: Q x h x w logits, above 0 inside, kept in fp16; or bool, kept as bits at their own resolution.
        log_scores: Q x (N + 1) class logits or log probabilities, void last; a log-softmax is taken.
        classes: N names or lists of synonyms.
        height: rows of the photograph in pixels.
        width: its columns.
        mask_iou: Q in 0..1, where the system judges its masks.
        content: the part of the rows and of the columns that the photograph takes up, if the logits are of a padded
            input: its sides before padding divided by those after.
        longest: longest side of the logits that are kept; larger ones are reduced. None: all is kept.

    Returns:
        The file.

    Raises:
        InputError: tensors that do not fit each other, a name that is given twice.
        OSError: the disk.
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


def read_predictions(path: str | Path) -> tuple[dict[str, Tensor], Classes, tuple[int, int]]:
    """Reads a file of saved masks.

    Args:
        path: see the module.

    Returns:
        ``masks`` (Q x h x w float logits), ``log_scores`` (Q x (N + 1) fp32) and, if there, ``mask_iou`` (Q); the
        file's classes with their synonyms; and rows and columns of the photograph.

    Raises:
        InputError: a file that is no safetensors, of another format, or whose tensors are of the wrong type or shape.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}): save the masks anew") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {metadata.get('format')!r}, not {FORMAT!r}: use save_predictions")
    try:
        classes = tuple(check_vocabulary([list(c) for c in json.loads(metadata["classes"])]))
        height, width = int(metadata["height"]), int(metadata["width"])
        masks, log_scores = tensors["masks"], tensors["log_scores"]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: lacks or garbles {error}: use save_predictions") from error
    if masks.dtype == torch.uint8:
        masks = _unpack(masks, metadata.get("mask_width", ""), path)
    predictions = MaskPredictions(masks, log_scores, tensors.get("mask_iou"))
    predictions.check(height, width, len(classes), str(path))
    # A NaN is not at most 0 either; what is hardly more is a rounding.
    if not log_scores.is_floating_point() or not bool((log_scores <= 1e-3).all()):
        raise InputError(f"{path}: log_scores are no log probabilities: use save_predictions")
    return {**tensors, "masks": masks, "log_scores": log_scores.float()}, classes, (height, width)


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
    bits = np.unpackbits(packed.numpy(), axis=-1, count=int(width))
    return (torch.from_numpy(bits).half() - 0.5) * (2 * SURE)
