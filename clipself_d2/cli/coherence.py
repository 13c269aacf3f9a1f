"""Probe how semantically coherent a tower's dense features are (PACL's study). No text is needed.

Pairs of patches in one image, and in two, are compared by cosine. The area below the ROC curve says how well the cosine
tells whether both belong to one object (a segment of the panoptic labels) or one class. 50 is chance.

The table has a row for each tower (--pretrained), dense mode (--modes) and block (--blocks). The output folder gets
results.json and coherence.png, the curves and the cosines.

Examples:
  The miniature CLIP, before and after CLIPSelf:
    clipself coherence --pretrained miniature output/clipself_patches/tower.safetensors \\
        --labels original CLIPSelf
  OpenAI's B/16 on COCO with all kinds of features:
    clipself coherence --clip ViT-B-16-quickgelu --pretrained openai --size 1024 \\
        --dataset coco_2017_val_panoptic_ov --modes no_attn full --blocks 3 5 7 11
"""

import argparse
import json
from collections.abc import Sequence

from tabulate import tabulate
from tqdm import tqdm

from clipself_d2.cli.arguments import clip_weights, output_folder, own_weights
from clipself_d2.command_line import ArgumentParser, announce, exit_codes, weights
from clipself_d2.errors import InputError

MINIATURE = "OV-Shapes-ViT-8"  # clipself_d2.miniature.MODEL, which takes long to import


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(
        "clipself coherence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clip", default=MINIATURE, metavar="NAME", help="as of the other commands (%(default)s)")
    add(
        "--pretrained",
        type=clip_weights,
        nargs="+",
        metavar="WEIGHTS",
        help="a tag, a file or null for each tower (miniature)",
    )
    add("--labels", nargs="+", metavar="TEXT", help="names of the towers (as in --pretrained)")
    add("--dataset", default="ov_shapes_val_panoptic", metavar="NAME", help="panoptic or semantic (%(default)s)")
    add("--size", type=int, metavar="PIXELS", help="side of the towers' input (twice the native size)")
    add("--modes", nargs="+", choices=("no_attn", "full"), default=["no_attn"], help="dense modes (no_attn)")
    add("--blocks", nargs="+", type=int, default=[], metavar="N", help="also the features of these blocks, from 0")
    add("--per-segment", type=int, default=8, metavar="N", help="patches per segment (%(default)s)")
    add(
        "--across",
        type=int,
        default=8,
        metavar="N",
        help="patches compared across images (%(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the drawn patches (%(default)s)")
    add("--limit", type=int, metavar="N", help="only the first images")
    add("--batch-size", type=int, default=8, metavar="N", help="images per batch (%(default)s)")
    add("--num-workers", type=int, default=2, metavar="N", help="worker processes that load images (%(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto, cuda or cpu")
    add("--output", type=output_folder, default="output/coherence", metavar="DIR", help="(%(default)s)")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: must be at least 1")
    args.pretrained = args.pretrained or [own_weights(args.clip) or "miniature"]
    args.labels = args.labels or args.pretrained
    if len(args.labels) != len(args.pretrained):
        raise InputError(f"--labels: {len(args.labels)} for {len(args.pretrained)} towers: give one each")
    if twice := {label for label in args.labels if args.labels.count(label) > 1}:
        raise InputError(f"--labels: {twice.pop()!r} is given twice: give each tower its own label")
    return args


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"coherence on {args.dataset}")

    from clipself_d2.clip import build_image_tower
    from clipself_d2.clip.checkpoint import write_atomically
    from clipself_d2.data import PanopticMapper, build_test_loader, get_dataset
    from clipself_d2.engine.inference import resolve_device
    from clipself_d2.evaluation import SemanticCoherenceEvaluator
    from clipself_d2.evaluation.semantic_coherence import RELATIONS, tower_features
    from clipself_d2.miniature import WEIGHTS
    from clipself_d2.visualization.coherence import draw_coherence

    device = resolve_device(args.device)
    sources = [WEIGHTS if source == "miniature" else weights(source) for source in args.pretrained]
    towers = {
        label: build_image_tower(args.clip, source).to(device).eval()
        for label, source in zip(args.labels, sources, strict=True)
    }
    size = args.size or 2 * next(iter(towers.values())).native_size
    records = get_dataset(args.dataset)[: args.limit]
    loader = build_test_loader(records, PanopticMapper(), args.num_workers, args.batch_size)
    evaluator = SemanticCoherenceEvaluator(
        args.dataset, per_segment=args.per_segment, across=args.across, seed=args.seed
    )
    with tqdm(total=len(records), desc="images", unit=" images", dynamic_ncols=True) as bar:
        for batch in loader:
            evaluator.process(batch, tower_features(towers, batch, size, args.modes, args.blocks))
            bar.update(len(batch))
    areas = evaluator.evaluate()

    args.output.mkdir(parents=True, exist_ok=True)
    content = {"dataset": args.dataset, "size": size, "name": args.clip, "images": len(records), "auc": areas}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(args.output / "results.json", lambda file: file.write_text(text))
    draw_coherence(evaluator.histograms).save(args.output / "coherence.png")
    print(f"{args.dataset}, {size} pixels: area below the ROC curve, %")
    print(table(areas, RELATIONS))
    print(f"written to {args.output}/results.json and coherence.png")


def table(areas: dict[str, dict[str, float]], names: dict[str, str]) -> str:
    """Lay out a row for each kind of features and a column for each relation."""
    relations = [name for name in names if any(name in of_kind for of_kind in areas.values())]
    rows = [[kind, *(of_kind.get(relation) for relation in relations)] for kind, of_kind in areas.items()]
    headers = ["features", *(names[relation] for relation in relations)]
    return tabulate(rows, headers, "simple_outline", floatfmt=".1f", missingval="-")
