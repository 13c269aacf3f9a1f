"""Save the masks and class scores of any segmenter, for CLIPSelf to score: one safetensors file per image.

Copy this file beside the segmenter's code and call `save_predictions` in its inference loop. It needs Python 3.8,
torch 1.13 and numpy, no safetensors and nothing else of clipself_d2.

Tensors of a file:

- `masks`: Q x h x w float16, bfloat16 or float32 logits of the whole image, above 0 inside; or binary masks, Q x h x
  ceil(w / 8) uint8, eight pixels of a row per byte, the first in the highest bit (`numpy.packbits`).
- `log_scores`: Q x (N + 1) float32 log probabilities over the file's classes, void last.
- `mask_iou`: Q float32 in 0..1; may be absent.

Metadata, all strings: `format` ("clipself_d2.masks.1"), `classes` (a json list of N lists of synonyms), `height` and
`width` of the image in pixels, and `mask_width` (w) of binary masks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FORMAT = "clipself_d2.masks.1"

_DTYPES = {np.dtype("float16"): "F16", np.dtype("float32"): "F32", np.dtype("uint8"): "U8"}


def save_predictions(
    folder: str | Path,
    file_name: str | Path,
    masks: Tensor,
    log_scores: Tensor,
    classes: Sequence[str | Sequence[str]],
    height: int,
    width: int,
    *,
    mask_iou: Tensor | None = None,
    content: tuple[float, float] = (1.0, 1.0),
    longest: int | None = 512,
) -> Path:
    """Write the predictions for one image.

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
        ValueError: tensors that do not fit each other, a class without a name or given twice.
        OSError: the file cannot be written.
    """
    path = Path(folder) / f"{Path(file_name).stem}.safetensors"
    # Other projects repeat names within a class.
    names = [[c] if isinstance(c, str) else list(dict.fromkeys(c)) for c in classes]
    rows, columns = (max(1, round(part * side)) for part, side in zip(content, masks.shape[-2:]))
    masks = masks.detach()[..., :rows, :columns]
    _check(f"masks of {file_name}", masks, log_scores, mask_iou, names, height, width)

    tensors = {"log_scores": log_scores.detach().float().log_softmax(dim=-1).cpu().numpy()}
    if mask_iou is not None:
        tensors["mask_iou"] = mask_iou.detach().float().cpu().numpy()
    metadata = {"format": FORMAT, "classes": json.dumps(names), "height": str(height), "width": str(width)}
    if masks.dtype == torch.bool:
        metadata["mask_width"] = str(columns)
        tensors["masks"] = np.packbits(masks.cpu().numpy(), axis=-1)
    else:
        tensors["masks"] = _reduce(masks.float(), longest).half().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, tensors, metadata)
    return path


def _check(
    source: str,
    masks: Tensor,
    log_scores: Tensor,
    mask_iou: Tensor | None,
    names: list[list[str]],
    height: int,
    width: int,
) -> None:
    count, distinct = len(masks), {tuple(synonyms) for synonyms in names}
    if masks.ndim != 3 or not (masks.is_floating_point() or masks.dtype == torch.bool):
        raise ValueError(f"{source}: {tuple(masks.shape)} {masks.dtype}: give Q x h x w bool, or float logits")
    if len(distinct) < len(names) or not all(synonyms and all(synonyms) for synonyms in names):
        raise ValueError(f"{source}: a class has no name, or the names of another class: give each class its names")
    if tuple(log_scores.shape) != (count, len(names) + 1):
        raise ValueError(
            f"{source}: log_scores are {tuple(log_scores.shape)} for {count} masks and {len(names)} classes: give a "
            "column for each class and, last, one for void"
        )
    if mask_iou is not None and tuple(mask_iou.shape) != (count,):
        raise ValueError(f"{source}: mask_iou is {tuple(mask_iou.shape)} for {count} masks: give one each")
    sides = list(zip(masks.shape[1:], (height, width)))
    if count and max((side - 1) / whole for side, whole in sides) > min((side + 1) / whole for side, whole in sides):
        raise ValueError(
            f"{source}: {masks.shape[2]} x {masks.shape[1]} pixels do not have the aspect of the image, {width} x "
            f"{height}: say which part of the masks the image fills (content)"
        )


def _reduce(masks: Tensor, longest: int | None) -> Tensor:
    scale = 1.0 if longest is None else longest / max(masks.shape[-2:])
    if scale >= 1 or not len(masks):
        return masks
    size = [max(1, round(side * scale)) for side in masks.shape[-2:]]
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def _write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write safetensors atomically: the length of a json header, the header, the bytes of the tensors.

    A tensor must start at a multiple of its element's size: the tensors are in falling order of these sizes.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for array in tensors.values():
                file.write(np.ascontiguousarray(array).tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()
