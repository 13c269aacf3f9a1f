"""The dense encoder of a CLIP for other runtimes: ONNX and torch.export, at any batch and image size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.tower import ImageTower
from clipself_d2.errors import RunError

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


def write_encoder(encoder: DenseEncoder, path: Path) -> None:
    """Write an encoder, with symbols for batch, height and width, to a `.onnx` or `.pt2`."""
    stride = encoder.tower.stride
    batch, rows, columns = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "rows", "columns"))
    images = torch.zeros(2, 3, 5 * stride, 7 * stride)
    shapes = {"images": {0: batch, 2: stride * rows, 3: stride * columns}}
    write_program(encoder, {"images": images}, ["dense"], path, shapes)


@torch.no_grad()
def write_program(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, dynamic_shapes: Any = None
) -> None:
    """Export a module and write it to a `.onnx` or `.pt2`.

    Args:
        module: on the CPU.
        inputs: examples of its arguments, by name.
        outputs: names of its results.
        path: of the file.
        dynamic_shapes: see `torch.export.export`; None for the examples' shapes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch and ONNX to themselves
        program = torch.export.export(
            module.eval(), tuple(inputs.values()), dynamic_shapes=dynamic_shapes, strict=False
        )
        if path.suffix == ".pt2":
            write_atomically(path, lambda file: torch.export.save(program, file))
            return
        for name in ("onnxscript", "onnx_ir"):  # they tell of each operation that they keep
            logging.getLogger(name).setLevel(logging.ERROR)
        model: Any = torch.onnx.export(
            program, (), input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False
        )
        write_atomically(path, model.save)


def quantize(path: Path) -> None:
    """Turn the weights of an ONNX file into int8 in place, by onnxruntime's dynamic quantization."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises a step that the exporter has done
    try:
        # Matrix products alone: dynamic convolutions are slow, and the first one reads pixels.
        write_atomically(
            path,
            lambda file: quantize_dynamic(path, file, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]),
        )
    finally:
        logging.root.setLevel(level)


@torch.no_grad()
def compare(encoder: DenseEncoder, path: Path) -> tuple[float, float]:
    """Run a written file at three sizes and two batches, beside the encoder.

    Returns:
        The largest difference of an entry, and the smallest cosine of a location.
    """
    run = load_program(path)
    height, width = (side * encoder.tower.stride for side in encoder.tower.native_grid)
    generator, worst, least = torch.Generator().manual_seed(0), 0.0, 1.0
    for batch, rows, columns in (
        (1, height, width),
        (2, height, 2 * width),
        (2, 2 * height - encoder.tower.stride, width),
    ):
        images = torch.randint(256, (batch, 3, rows, columns), generator=generator).float()
        [dense], expected = run(images), encoder(images)
        worst = max(worst, float((dense - expected).abs().max()))
        least = min(least, float((dense * expected).sum(dim=1).min()))
    return worst, least


def check_difference(worst: float, path: Path) -> None:
    """Raise a RunError for a file that differs by more than `TOLERANCE`."""
    if not worst <= TOLERANCE:
        raise RunError(f"{path}: differs from PyTorch by {worst:.1e}, more than {TOLERANCE}")


@torch.no_grad()
def milliseconds(module: nn.Module, path: Path, *inputs: Tensor) -> tuple[float, float]:
    """The median time of a call of a module, and of the file that was written of it."""
    run = load_program(path)

    def median(function: Callable[..., Any]) -> float:
        timer = Timer("function(*inputs)", globals={"function": function, "inputs": inputs})
        timer.timeit(1)
        return timer.blocked_autorange(min_run_time=1.0).median * 1000

    return median(module), median(run)


def load_program(path: Path) -> Callable[..., list[Tensor]]:
    """A written file as a function of its inputs, in order, on the CPU with PyTorch's number of threads."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda *inputs: list(results) if isinstance(results := program(*inputs), tuple) else [results]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(each) for each in session.run(None, arrays)]

    return run
