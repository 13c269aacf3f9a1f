"""Write a CLIP's dense encoder, or an F-ViT, for other runtimes: OUTPUT.onnx (ONNX) or OUTPUT.pt2 (torch.export).

An encoder's input `images` is B x 3 x H x W float RGB in 0..255, whose sides are multiples of the patch; its output
`dense` is B x C x h x w, unit vectors to compare with text embeddings (`clipself embed` writes them). Batch
and size are free. A detector's words are fixed in the file; docs/export.md has its inputs and outputs.

The file is run beside PyTorch before the command ends and must agree to 1e-4; its speed is printed beside PyTorch's.

Examples:
  clipself export dense.onnx --clip EVA02-B-16 --pretrained output/distill/tower.safetensors
  clipself export dense.onnx --clip ViT-B-16-quickgelu --pretrained openai --int8
  clipself export dense.pt2 --clip hf-hub:OWNER/NAME
  clipself export fvit.onnx --config-file detection/fvit_eva02_b16_ovcoco --words "cat, red car"
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli.arguments import add_clip, add_trained, check_clip, output_file
from clipself_d2.command_line import ArgumentParser, announce, exit_codes, weights
from clipself_d2.errors import InputError, require
from clipself_d2.vocabulary import describe_classes, read_vocabulary


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(
        "clipself export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("output", type=output_file, help="OUTPUT.onnx or OUTPUT.pt2")
    add_clip(parser)
    add("--dense-mode", default="no_attn", metavar="MODE", help="how the dense map is read (%(default)s)")
    add("--int8", action="store_true", help="int8 weights and matrix products (ONNX encoders)")
    add_trained(parser, "an F-ViT instead of a CLIP")
    add(
        "--words",
        type=read_vocabulary,
        help="what it looks for (default: the classes of the config); see `clipself predict`",
    )
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    check_clip(args)
    if (args.clip is None) == (args.config_file is None):
        raise InputError("give --clip and --pretrained for an encoder, or --config-file for an F-ViT")
    if args.int8 and (args.config_file or args.output.suffix != ".onnx"):
        raise InputError("--int8 is for encoders in ONNX: give --clip, and an output that ends in .onnx")
    check_path(args.output)
    return args


def check_path(path: Path) -> None:
    """Raise an InputError for a suffix that is no format, and for what the format needs and is not installed."""
    if path.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{path}: end the name in .onnx (ONNX) or .pt2 (torch.export)")
    for package in ("onnx", "onnxscript", "onnxruntime") if path.suffix == ".onnx" else ():
        require(package, "export", "ONNX")


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"export of {args.clip or args.config_file} to {args.output}")

    import clipself_d2.miniature  # noqa: F401  (registers its model with open_clip)

    if args.config_file:
        export_detector(args)
    else:
        export_encoder(args)
    print(f"written to {args.output}")


def export_encoder(args: argparse.Namespace) -> None:
    """Write a CLIP's dense encoder."""
    import torch

    from clipself_d2.clip import build_image_tower
    from clipself_d2.clip.export import (
        DenseEncoder,
        check_difference,
        compare,
        milliseconds,
        quantize,
        write_encoder,
    )

    encoder = DenseEncoder(build_image_tower(args.clip, weights(args.pretrained)), args.dense_mode)
    write_encoder(encoder, args.output)
    worst, _ = compare(encoder, args.output)
    print(f"largest difference to PyTorch: {worst:.1e}")
    check_difference(worst, args.output)
    if args.int8:
        quantize(args.output)
        print(f"int8: smallest cosine with PyTorch {compare(encoder, args.output)[1]:.4f}, on noise")
    side = encoder.tower.native_grid[0] * encoder.tower.stride
    _print_speed(args.output, milliseconds(encoder, args.output, torch.zeros(1, 3, side, side)), side)


def export_detector(args: argparse.Namespace) -> None:
    """Write an F-ViT with a fixed vocabulary."""
    from clipself_d2.clip.export import check_difference, milliseconds
    from clipself_d2.detection import FViT
    from clipself_d2.detection.export import compare_detections, example, write_detector
    from clipself_d2.engine.config import load_config
    from clipself_d2.engine.inference import load_trained
    from clipself_d2.visualization.predictor import set_classes

    cfg = load_config(args.config_file, ["train.device=cpu", *args.opts])
    if args.words:
        print(describe_classes(args.words))
        set_classes(cfg, args.words)
    model = load_trained(cfg, weights(args.weights))
    if not isinstance(model, FViT):
        raise InputError(f"{args.config_file}: is no F-ViT: use a config of configs/detection")
    detector = write_detector(model, args.output)
    worst = compare_detections(model, args.output)
    print(f"largest difference to PyTorch: {worst:.1e}")
    check_difference(worst, args.output)
    _print_speed(args.output, milliseconds(detector, args.output, *example(model).values()), model.size)


def _print_speed(path: Path, times: tuple[float, float], side: int) -> None:
    runtime = "onnxruntime" if path.suffix == ".onnx" else "torch.export"
    print(f"one image of {side} x {side} pixels on the CPU: PyTorch {times[0]:.1f} ms, {runtime} {times[1]:.1f} ms")
