"""The command line of tools/train_net.py; the heavy imports come after parsing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from clipself_d2.command_line import ArgumentParser, announce, config_name, exit_codes

EXAMPLES = """
examples:
  train on one GPU (or the CPU: add train.device=cpu):
    python tools/train_net.py --config-file configs/distillation/clipself_eva02_b16_coco_patches.py
  on 8 GPUs, into a folder of your own:
    python tools/train_net.py --config-file FILE --num-gpus 8 train.output_dir=output/mine
  go on after an interruption; the result is that of an uninterrupted run:
    python tools/train_net.py --config-file FILE --resume train.output_dir=output/mine
  change any value of the config:
    python tools/train_net.py --config-file FILE train.max_iter=1000 model.student_size=640 optimizer.lr=2e-5
  evaluate the CLIP of the config, an exported tower, or a checkpoint of a run:
    python tools/train_net.py --config-file FILE --eval-only
    python tools/train_net.py --config-file FILE --eval-only clip.pretrained=output/mine/tower.safetensors
    python tools/train_net.py --config-file FILE --eval-only train.init_checkpoint=output/mine/checkpoint_0001000.pth
  evaluate a run's folder that you downloaded:
    python tools/train_net.py --config-file DIR/config.yaml --untrusted-config --eval-only --resume train.output_dir=DIR
  keep the teacher's embeddings on disk; a run fills the cache as it goes, or this command fills it beforehand:
    python tools/train_net.py --config-file FILE model.teacher_cache.folder=output/teacher_cache
    python tools/train_net.py --config-file FILE model.teacher_cache.folder=output/teacher_cache --fill-teacher-cache
  with torchrun, or on 2 machines (run on both, with --machine-rank 0 and 1):
    torchrun --nproc-per-node 8 tools/train_net.py --config-file FILE
    python tools/train_net.py --config-file FILE --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url
    tcp://HOST:PORT

The run writes config.yaml, log.txt, metrics.json (the training curve), checkpoints, results.json (the last evaluation),
and at the end tower.safetensors + tower.json where the config has an `export`, to train.output_dir (by default
output/NAME for the config NAME.py). $DETECTRON2_DATASETS names the folder of the data sets.

Ctrl-C, SIGTERM or SIGUSR1 ends a training after its step, with a checkpoint; a second one ends it at once.

A config runs code: a .py file is executed, and a config.yaml may call any function of any package. Read what you did
not write, or pass --untrusted-config.
"""


RESUME = "the same command with --resume goes on from the last checkpoint"


@exit_codes(interrupted=RESUME)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    announce(f"{'evaluation' if args.eval_only else 'training'} by {args.config_file}")
    start(args)


def start(args: argparse.Namespace) -> None:
    """Run what the arguments of `build_parser` say, on all their ranks."""
    from clipself_d2.engine.config import load_config
    from clipself_d2.engine.launch import launch
    from clipself_d2.engine.run import run

    cfg = load_config(args.config_file, args.opts, untrusted=args.untrusted_config)
    spawns = args.num_gpus * args.num_machines > 1
    launch(
        run,
        (args, None if spawns else cfg),
        device=cfg.train.device,
        ranks_per_machine=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse Detectron2's usual arguments.

    Raises:
        InputError: for an unknown or missing argument.
    """
    return build_parser("train_net.py", "Train and evaluate the model of a config.", EXAMPLES).parse_intermixed_args(
        argv
    )


def build_parser(prog: str, description: str, epilog: str, default_config: str | None = None) -> ArgumentParser:
    """Make the parser of a command that runs a config.

    Args:
        prog: the command.
        description: what it does.
        epilog: examples.
        default_config: what the command runs without ``--config-file``; None requires it.
    """
    parser = ArgumentParser(
        prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    what = "a path, a name such as miniature/fvit, or a run's config.yaml"
    default = f" (of your own data: {default_config})" if default_config else ""
    add("--config-file", type=config_name, required=default_config is None, metavar="FILE", help=what + default)
    add("--resume", action="store_true", help="go on from the newest checkpoint in train.output_dir, if any")
    add("--eval-only", action="store_true", help="evaluate and stop")
    add("--fill-teacher-cache", action="store_true", help="embed all crops of the training set and stop")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks of this machine; on CPU with train.device=cpu")
    add("--num-machines", type=int, default=1, metavar="M", help="machines that run this command")
    add("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0, for several machines")
    add("--untrusted-config", action="store_true", help="FILE is a downloaded config.yaml: let it call no other code")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser
