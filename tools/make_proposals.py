"""Write region proposals as the json that distillation reads, from a trained F-ViT or region proposal network.

OUTPUT is in COCO's format: the boxes of each image, best first, with their scores. Boxes with a side below one pixel or
a score below --min-score are dropped; after non-maximum suppression at --nms over all boxes, the --top best of an image
are kept. clipself_d2/detection/proposals.py explains the defaults; those of the paper are not published.

If the data set has boxes, the tool prints the recall of the network (AR@100, AR@300) and of the file.

Examples:
  the proposal recipe on COCO, with the paper's kind of network, trained on the boxes of base classes:
    python tools/train_net.py --config-file configs/detection/rpn_r50_fpn_ovcoco.py
    python tools/make_proposals.py --config-file configs/detection/rpn_r50_fpn_ovcoco.py \\
        --dataset coco_2017_train_images --output datasets/coco/coco_proposals.json
  with the network inside a trained F-ViT:
    python tools/make_proposals.py --config-file configs/detection/fvit_eva02_b16_ovcoco.py \\
        --weights output/fvit/checkpoint_0050000.pth --dataset coco_2017_train_images --output proposals.json
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the config of the trained network")
    add("--weights", default="latest", metavar="FILE", help="checkpoint_*.pth (default: that of train.output_dir)")
    add("--dataset", required=True, metavar="NAME", help="the data set of the images; see datasets/README.md")
    add("--output", required=True, type=Path, metavar="FILE.json", help="the new file; must not exist")
    add("--top", type=int, default=50, metavar="N", help="most proposals per image (%(default)s)")
    add("--nms", type=float, default=0.7, metavar="IOU", help="threshold; 1 keeps duplicates (%(default)s)")
    add("--min-score", type=float, default=0.0, metavar="P", help="lowest objectness (%(default)s)")
    add("--batch-size", type=int, default=4, metavar="N", help="images per batch (%(default)s)")
    add("--num-workers", type=int, default=4, metavar="N", help="processes that read images (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    if args.output.exists():
        raise InputError(f"{args.output}: exists already; remove it, or name another --output")
    return args


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)

    from clipself_d2.data import ImageMapper, build_test_loader, get_dataset
    from clipself_d2.detection.proposals import ProposalFilter, check_can_propose, propose, write_proposals
    from clipself_d2.engine.config import load_config, target, train_settings
    from clipself_d2.engine.inference import autocast, load_trained
    from clipself_d2.evaluation import ProposalEvaluator

    select = ProposalFilter(args.top, args.nms, args.min_score)
    cfg = load_config(args.config_file, args.opts)
    check_can_propose(target(cfg.model))
    records = get_dataset(args.dataset)
    loader = build_test_loader(records, ImageMapper(), args.num_workers, args.batch_size)
    evaluators = {}
    if any(record.get("annotations") for record in records):
        evaluators["the network"] = ProposalEvaluator(args.dataset)
        evaluators["the file"] = ProposalEvaluator(args.dataset, limits=(select.top,))
    model = load_trained(cfg, None if args.weights == "null" else args.weights)

    def kept() -> Iterator[tuple[dict[str, Any], Any]]:
        proposed = propose(model, loader, autocast(train_settings(cfg)))
        for sample, proposals in tqdm(proposed, "proposals", len(records), unit=" images", dynamic_ncols=True):
            chosen = select(proposals)
            for evaluator, found in zip(evaluators.values(), (proposals, chosen), strict=False):
                evaluator.process([sample], [{"proposals": found}])
            yield sample, chosen

    info = {"description": "region proposals", "config": Path(args.config_file).name, "weights": args.weights}
    written = write_proposals(args.output, kept(), {**info, "data": args.dataset, **asdict(select)})
    print(f"wrote {written.boxes:,} proposals of {written.images:,} images to {args.output}")
    if written.bare:
        print(f"{written.bare:,} images have none; distillation takes its fallback box there")
    if loader.num_unreadable:
        print(f"{loader.num_unreadable:,} images could not be read and were left out")
    for name, evaluator in evaluators.items():
        recalls = evaluator.evaluate().get("proposals", {})
        print(f"recall of {name}, %:  " + "  ".join(f"{key} {value:.1f}" for key, value in recalls.items()))


if __name__ == "__main__":
    sys.exit(main())
