"""Convert CLIP weights of any published format to open_clip's, OpenAI's, transformers' or CAT-Seg's.

Reads: open_clip (.pt, .bin, .safetensors), OpenAI (state dict or TorchScript archive), transformers (CLIPModel and
SiglipModel), official EVA-CLIP, official CLIPSelf, official CAT-Seg (its CLIP), and this project's own files; and
hf-hub:OWNER/NAME or local-dir:FOLDER, which need no --clip.

Writes:
  open_clip  OUTPUT.safetensors and a JSON card; open_clip.create_model(MODEL, pretrained=OUTPUT) loads it.
  openai     OUTPUT.pt, a state dict with OpenAI's names; for plain ViTs and ResNets with QuickGELU.
  transformers  OUTPUT, a folder that CLIPModel.from_pretrained and CLIPProcessor load, or SiglipModel and
             SiglipProcessor; for plain ViTs, and for SigLIP and SigLIP2.
  cat-seg    OUTPUT.pth, a Detectron2 checkpoint for the official CAT-Seg's MODEL.WEIGHTS; for plain QuickGELU ViTs.
             Its dense map adds the class token's residual to every patch; CLIPSelf trained each patch with its own.
  plugin     OUTPUT.safetensors, image tower and text embeddings for clipself_d2/panoptic/standalone, which runs in the
             environment of ODISE or FC-CLIP (docs/panoptic.md); for ViTs and EVA-02. Needs --vocabulary.

Examples:
  clipself convert EVA02_CLIP_B_psz16_s8B.pt eva02_b16.safetensors --clip EVA02-B-16
  clipself convert output/tower.safetensors vit_b16.pt --clip ViT-B-16-quickgelu --format openai
  clipself convert output/tower.safetensors my_clip --clip ViT-B-16-quickgelu --format transformers
  clipself convert output/tower.safetensors cat_seg.pth --clip ViT-B-16-quickgelu --format cat-seg
  clipself convert hf-hub:OWNER/NAME my_clip --format transformers
  clipself convert ViT-L-14.pt l14_336.safetensors --clip ViT-L-14-336-quickgelu --resize-positions
  clipself convert output/tower.safetensors plugin.safetensors --clip ViT-L-14-336-quickgelu \\
      --format plugin --vocabulary names.json --templates photo
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.cli.arguments import clip_name, existing_file, output_file, output_folder
from clipself_d2.command_line import ArgumentParser, announce, exit_codes
from clipself_d2.errors import InputError
from clipself_d2.files import REPOSITORIES
from clipself_d2.vocabulary import read_vocabulary

SUFFIXES = {
    "open_clip": ".safetensors",
    "openai": ".pt",
    "transformers": "",
    "cat-seg": ".pth",
    "plugin": ".safetensors",
}


def convert(args: argparse.Namespace) -> None:
    """Read weights strictly into the model of that name, and write them in another format."""
    import torch

    import clipself_d2.miniature  # noqa: F401  (registers its model with open_clip)
    from clipself_d2.clip.build import build_model, build_tokenizer, build_towers, name_for_card
    from clipself_d2.clip.checkpoint import save_checkpoint, write_atomically
    from clipself_d2.clip.formats import to_cat_seg, to_openai
    from clipself_d2.clip.transformers_format import save_transformers

    source, output, form = args.input, args.output, args.format
    name = args.clip or source
    if form == "plugin":
        from clipself_d2.panoptic.plugin_file import save_plugin_file

        names = list(dict.fromkeys(word for synonyms in args.vocabulary for word in synonyms))
        save_plugin_file(output, *build_towers(name, source), names, args.templates)
        return
    model, mean, std = build_model(name, source, args.resize_positions)
    if form == "transformers":
        save_transformers(model, build_tokenizer(name), output, mean, std)
    elif form == "open_clip":
        card = {"model": name_for_card(name, output), "source": Path(source).name}
        save_checkpoint(model.state_dict(), output, card)
    else:
        content = to_openai(model) if form == "openai" else to_cat_seg(model)
        write_atomically(output, lambda file: torch.save(content, file))


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(
        "clipself convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="weights in any of the formats above")
    parser.add_argument("output", type=Path, help="the file or folder to write")
    parser.add_argument(
        "--clip",
        type=clip_name,
        help="open_clip's name of the model (EVA02-B-16), a JSON config, or a repository as the input may be",
    )
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="open_clip", help="default: open_clip")
    parser.add_argument(
        "--resize-positions",
        action="store_true",
        help="resample the image tower's position table, if it is of another image size than the model's",
    )
    parser.add_argument(
        "--vocabulary", type=read_vocabulary, help="for plugin: the class names, a .json or .txt file or words"
    )
    parser.add_argument(
        "--templates", default="photo", help="for plugin: photo (default, ODISE's), vild, or a template"
    )
    args = parser.parse_args(argv)
    if (args.format == "plugin") != (args.vocabulary is not None):
        raise InputError("--format plugin, and no other, needs --vocabulary: the class names of ODISE or FC-CLIP")
    if not args.input.startswith(REPOSITORIES):
        args.input = str(existing_file(args.input))
        if not args.clip:
            raise InputError(f"{args.input}: name its CLIP by --clip")
    if args.format == "transformers":
        args.output = output_folder(str(args.output))
    elif args.output.suffix != SUFFIXES[args.format]:
        raise InputError(f"{args.output}: the format {args.format} needs a name that ends in {SUFFIXES[args.format]}")
    else:
        args.output = output_file(str(args.output))
    announce(f"{args.input} to the format {args.format}")
    convert(args)
    print(f"wrote {args.output}")
