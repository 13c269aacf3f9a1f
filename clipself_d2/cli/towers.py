"""List the CLIPs that --clip takes, with the sizes of their image towers. Nothing is built or downloaded.

The columns: the network; what is read as the image's embedding (a class token, the mean of the patches, an attention
pool); millions of parameters; stride and native side of the image in pixels; width of an embedding; and "hub" where the
text tower needs a tokenizer or a config of the Hugging Face hub.

Examples:
  clipself towers
  clipself towers siglip2
  clipself towers --all
"""

import argparse
import gc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError

_NETWORKS = {"VisionTransformer": "ViT", "ModifiedResNet": "ResNet"}


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(
        "clipself towers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("filter", nargs="?", default="", help="a part of the name, in any case")
    parser.add_argument("--all", action="store_true", help="also list those that are refused, and why")
    args = parser.parse_args(argv)

    names = {name for name in _known_names() if args.filter.lower() in name.lower()}
    if not names:
        raise InputError(f"'{args.filter}': no name of open_clip contains it")
    print(f"{len(names)} of open_clip's names:", flush=True)

    gc.disable()  # what is imported and built lives to the end: searching it for cycles is a fifth of the time
    try:
        _print_towers(names, args.all)
    finally:
        gc.enable()


def _print_towers(names: set[str], with_refused: bool) -> None:
    import open_clip
    from tabulate import tabulate
    from tqdm import tqdm

    from clipself_d2.clip.build import image_tower_shape, model_config, reads_hub

    taken, refused = [], []
    for name in tqdm(list(filter(names.__contains__, open_clip.list_models())), "towers", leave=False, disable=None):
        try:
            tower = image_tower_shape(name)
        except InputError as error:
            refused.append(str(error))
        else:
            hub = "hub" if reads_hub(model_config(name)["text_cfg"]) else ""
            taken.append([name, *_describe(tower), hub])
    print(tabulate(taken, ["name", "network", "reads", "M", "stride", "image", "width", "text"], floatfmt=".0f"))
    print(f"\n{len(taken)} taken, {len(refused)} refused{'' if with_refused or not refused else ' (--all lists them)'}")
    for line in refused if with_refused else ():
        print(line)


def _known_names() -> list[str]:
    """open_clip's names, from the files of its configs: importing it takes seconds."""
    package = find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    return [file.stem for folder in folders or () for file in Path(folder, "model_configs").glob("*.json")]


def _describe(tower: Any) -> list[Any]:
    from clipself_d2.clip.attention_pool import AttentionPoolTower
    from clipself_d2.clip.transformer import TransformerTower

    network = type(getattr(tower.visual, "trunk", tower.visual)).__name__
    pooled = isinstance(tower, AttentionPoolTower) or not isinstance(tower, TransformerTower)
    return [
        _NETWORKS.get(network, network),
        "pool" if pooled else "mean" if tower.mean_pool else "class",
        sum(parameter.numel() for parameter in tower.visual.parameters()) / 1e6,
        tower.stride,
        tower.native_size,
        tower.embed_dim,
    ]
