"""The dense encoder of a CLIP for other runtimes: ONNX and torch.export, at any batch and image size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import InputError, RunError, require

TOLERANCE = 1e-4
"""The largest difference between an exported map and the tower's, whose entries are those of unit vectors."""


class DenseEncoder(nn.Module):
    """What is exported: images in, dense map out.

    Args:
        tower: a CLIP image tower, on the CPU.
        dense_mode: one of its dense modes.
    """

    def __init__(self, tower: ImageTower, dense_mode: str = "no_attn") -> None:
        super().__init__()
        tower.check_dense_mode(dense_mode)
        self.tower = tower
        self.dense_mode = dense_mode

    def forward(self, images: Tensor) -> Tensor:
        """The dense map of RGB images.

        Args:
            images: B x 3 x H x W float, 0..255; sides are multiples of the tower's stride.

        Returns:
            B x C x h x w, unit norm over C.
        """
        return self.tower.dense_embeddings(self.tower.normalize(images), self.dense_mode)


def check_path(path: Path) -> None:
    """Raise an InputError for a suffix that is no format, and for what the format needs and is not installed."""
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path}: end the name in .onnx (ONNX) or .pt2 (torch.export)")
    for package in ("onnx", "onnxscript", "onnxruntime") if path.suffix == ".onnx" else ():
        require(package, "export", "ONNX")


@torch.no_grad()
def write_encoder(encoder: DenseEncoder, path: Path) -> None:
    """Write an encoder, with symbols for batch, height and width, to a path that `check_path` accepts."""
    stride = encoder.tower.stride
    batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
    example = torch.zeros(2, 3, 5 * stride, 7 * stride)
    shapes = {"images": {0: batch, 2: stride * rows, 3: stride * columns}}
    program = torch.export.export(encoder.eval(), (example,), dynamic_shapes=shapes, strict=False)
    if path.suffix == ".pt2":
        write_atomically(path, lambda file: torch.export.save(program, file))
    else:
        logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of each operation that it keeps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch to itself
            model: Any = torch.onnx.export(
                program, (), input_names=["images"], output_names=["dense"], dynamo=True, verbose=False
            )
        write_atomically(path, model.save)


@torch.no_grad()
def compare(encoder: DenseEncoder, path: Path) -> float:
    """Run a written file at three sizes and two batches, beside the encoder.

    Returns:
        The largest difference of an entry.

    Raises:
        RunError: it exceeds `TOLERANCE`.
    """
    run = _load(path)
    height, width = (side * encoder.tower.stride for side in encoder.tower.native_grid)
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for batch, rows, columns in (
        (1, height, width),
        (2, height, 2 * width),
        (2, 2 * height - encoder.tower.stride, width),
    ):
        images = torch.randint(256, (batch, 3, rows, columns), generator=generator).float()
        worst = max(worst, float((run(images) - encoder(images)).abs().max()))
    if not worst <= TOLERANCE:
        raise RunError(f"{path}: differs from the tower by {worst:.1e}, more than {TOLERANCE}")
    return worst


def _load(path: Path) -> Callable[[Tensor], Tensor]:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
