"""Embed class names with a CLIP text tower, for a classifier without a text tower.

OUTPUT.npy holds K x C unit vectors in the given order; OUTPUT.pt holds a dictionary from the first name to the vector.

Examples:
  clipself embed --clip EVA02-B-16 --pretrained eva02_b16.safetensors \\
      --vocabulary classes.txt --output classes.npy
  clipself embed --clip ViT-B-16-quickgelu --pretrained openai \\
      --vocabulary "cat,dog" --templates photo --output pets.pt
"""

import argparse
from collections.abc import Sequence

from clipself_d2.cli.arguments import add_clip, check_clip, output_file
from clipself_d2.command_line import WORDS_HELP, ArgumentParser, announce, exit_codes, weights
from clipself_d2.errors import InputError
from clipself_d2.vocabulary import describe_classes, read_vocabulary


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(
        "clipself embed",
        description=__doc__,
        epilog=WORDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_clip(parser, required=True)
    parser.add_argument("--vocabulary", type=read_vocabulary, required=True, help="what to embed, see below")
    parser.add_argument("--output", required=True, type=output_file, help="OUTPUT.npy or OUTPUT.pt")
    parser.add_argument("--templates", default="vild", help="vild (63, default), photo, or one template with {}")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args(argv)
    check_clip(args)
    if args.output.suffix not in (".npy", ".pt"):
        raise InputError(f"{args.output}: end the name in .npy or .pt")
    announce(describe_classes(args.vocabulary))

    import clipself_d2.miniature  # noqa: F401  (registers its model with open_clip)
    from clipself_d2.clip import build_text_tower
    from clipself_d2.engine.inference import resolve_device
    from clipself_d2.vocabulary import TextClassifier, Vocabulary, save_text_embeddings

    tower = build_text_tower(args.clip, weights(args.pretrained)).to(resolve_device(args.device))
    vocabulary = Vocabulary.from_classes(args.vocabulary, TextClassifier(tower, args.templates), background=None)
    save_text_embeddings(vocabulary.text_embeddings, vocabulary.names, args.output)
    print(f"wrote {len(vocabulary)} x {vocabulary.embed_dim} embeddings to {args.output}")
