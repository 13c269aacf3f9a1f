"""Write region proposals as the json that distillation reads, from a trained network or a mask generator such as SAM.

OUTPUT is in COCO's format: the boxes of each image, best first, with their scores. Boxes with a side below one pixel or
a score below --min-score are dropped; after non-maximum suppression at --nms over all boxes, the --top best of an image
are kept. clipself_d2/detection/proposals.py explains the defaults; those of the paper are not published.

What is found is kept in OUTPUT.parts until OUTPUT is complete: a stopped command goes on there, on any number of ranks,
and writes the same file.

If the data set has boxes, the tool prints the recall of the network (AR@100, AR@300) and of the file.

Examples:
  the proposal recipe on COCO, with the paper's kind of network, trained on the boxes of base classes:
    clipself train --config-file detection/rpn_r50_fpn_ovcoco
    clipself proposals --config-file detection/rpn_r50_fpn_ovcoco \\
        --dataset coco_2017_train_images --output datasets/coco/coco_proposals.json
  on 8 GPUs: add --num-gpus 8, or start it with torchrun
  with the network inside a trained F-ViT:
    clipself proposals --config-file detection/fvit_eva02_b16_ovcoco \\
        --weights output/fvit/checkpoint_0050000.pth --dataset coco_2017_train_images --output proposals.json
  the boxes of SAM's masks (model.generator.name=facebook/sam2.1-hiera-small: those of SAM 2):
    clipself proposals --config-file panoptic/sam_openai_l14_336_coco \\
        --dataset coco_2017_train_images --output proposals.json model.generator.download=true
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipself_d2.cli.arguments import add_trained, new_file
from clipself_d2.command_line import ArgumentParser, announce, exit_codes, weights

_MOST_RECALLED = 300  # proposals of an image that count for the network's recall


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(
        "clipself proposals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_trained(parser, "the trained network", required=True)
    add("--dataset", required=True, metavar="NAME", help="the data set of the images; see datasets/README.md")
    add("--output", required=True, type=new_file, metavar="FILE.json", help="the new file; must not exist")
    add("--top", type=int, default=50, metavar="N", help="most proposals per image (%(default)s)")
    add("--nms", type=float, default=0.7, metavar="IOU", help="threshold; 1 keeps duplicates (%(default)s)")
    add("--min-score", type=float, default=0.0, metavar="P", help="lowest objectness (%(default)s)")
    add("--batch-size", type=int, default=4, metavar="N", help="images per batch (%(default)s)")
    add("--num-workers", type=int, default=4, metavar="N", help="processes that read images (%(default)s)")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks; on the CPU with train.device=cpu (%(default)s)")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


@exit_codes("the same command goes on where it stopped")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"proposals of {args.config_file} for {args.dataset}")

    from clipself_d2.detection.proposals import ProposalFilter, check_can_propose
    from clipself_d2.engine.config import load_config, target
    from clipself_d2.engine.launch import launch

    ProposalFilter(args.top, args.nms, args.min_score)
    cfg = load_config(args.config_file, args.opts)
    check_can_propose(target(cfg.model))
    launch(make_proposals, (args,), device=cfg.train.device, ranks_per_machine=args.num_gpus)


def make_proposals(args: argparse.Namespace) -> None:
    """Write the file, on each rank."""
    import torch
    from detectron2.structures import Instances
    from detectron2.utils import comm

    from clipself_d2.clip.checkpoint import content_hash
    from clipself_d2.data import ImageMapper, get_dataset
    from clipself_d2.data.walk import Walk
    from clipself_d2.detection.proposals import ProposalFilter, from_json, to_json, write_proposals
    from clipself_d2.engine.config import load_config, train_settings
    from clipself_d2.engine.inference import autocast, load_trained
    from clipself_d2.evaluation import ProposalEvaluator

    select = ProposalFilter(args.top, args.nms, args.min_score)
    cfg = load_config(args.config_file, args.opts)
    records = get_dataset(args.dataset)
    evaluators = {}
    if any(record.get("annotations") for record in records):
        evaluators["the file"] = ProposalEvaluator(args.dataset, limits=(select.top,))
        evaluators["the network"] = ProposalEvaluator(args.dataset)
    model: Any = load_trained(cfg, weights(args.weights))
    precision = autocast(train_settings(cfg))

    def process(samples: list[dict[str, Any]]) -> list[list[Any]]:
        """The proposals that are kept and, for the recall, the network's own."""
        with torch.inference_mode(), precision:
            proposed = [proposals.to("cpu") for proposals in model.propose(samples)]
        if not evaluators:
            return [[to_json(select(each))] for each in proposed]
        return [[to_json(select(each)), to_json(each[:_MOST_RECALLED])] for each in proposed]

    info = {"description": "region proposals", "config": Path(args.config_file).name, "weights": args.weights}
    info |= {"data": args.dataset, **asdict(select)}
    settings = {**info, "network": content_hash(model.state_dict()).hex(), "precision": cfg.train.precision}
    walk = Walk(args.output, records, {**settings, "overrides": args.opts}, args.batch_size)
    walk.run(ImageMapper(), process, args.num_workers)

    def found(which: int) -> Iterator[tuple[dict[str, Any], Instances]]:
        """Each image with one of its two kinds of proposals."""
        for sample, result in walk.results():
            yield sample, from_json(result[which], (sample["height"], sample["width"]))

    if comm.is_main_process():
        written = write_proposals(args.output, found(0), info)
        print(f"wrote {written.boxes:,} proposals of {written.images:,} images to {args.output}")
        if written.bare:
            print(f"{written.bare:,} images have none; distillation takes its fallback box there")
        if unreadable := len(records) - written.images:
            print(f"{unreadable:,} images could not be read and were left out")
        for which, evaluator in enumerate(evaluators.values()):
            for sample, proposals in found(which):
                evaluator.process([sample], [{"proposals": proposals}])
    for name, evaluator in reversed(evaluators.items()):
        recalls = (evaluator.evaluate() or {}).get("proposals", {})  # of rank 0's images; all ranks must call it
        if comm.is_main_process():
            print(f"recall of {name}, %:  " + "  ".join(f"{key} {value:.1f}" for key, value in recalls.items()))
    if comm.is_main_process():
        walk.remove()
