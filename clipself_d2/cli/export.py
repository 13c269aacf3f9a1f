"""Write a CLIP's dense encoder for other runtimes: OUTPUT.onnx (ONNX) or OUTPUT.pt2 (torch.export).

Its input `images` is B x 3 x H x W float RGB in 0..255, whose sides are multiples of the patch; its output `dense` is
B x C x h x w, unit vectors to be compared with text embeddings (tools/embed_vocabulary.py writes them). Batch and size
are free. The file is run at three sizes and two batches before the command ends, and must agree with PyTorch to 1e-4.

Examples:
  clipself export dense.onnx --clip EVA02-B-16 --pretrained output/distill/tower.safetensors
  clipself export dense.pt2 --clip ViT-B-16-quickgelu --pretrained openai
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes, weights


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(
        "clipself export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("output", type=Path, help="OUTPUT.onnx or OUTPUT.pt2")
    add("--clip", required=True, metavar="NAME", help="open_clip's name of the model, or the path of a JSON config")
    add("--pretrained", required=True, type=weights, metavar="WEIGHTS", help="a tag, hf-hub:OWNER/NAME or a file")
    add("--dense-mode", default="no_attn", metavar="MODE", help="how the dense map is read (%(default)s)")
    args = parser.parse_args(argv)

    import clipself_d2.miniature  # noqa: F401  (registers its model with open_clip)
    from clipself_d2.clip import build_image_tower
    from clipself_d2.clip.export import DenseEncoder, check_path, compare, write_encoder

    check_path(args.output)
    encoder = DenseEncoder(build_image_tower(args.clip, args.pretrained), args.dense_mode)
    write_encoder(encoder, args.output)
    print(f"largest difference to PyTorch: {compare(encoder, args.output):.1e}")
    print(f"written to {args.output}")
