"""A run from the command line to its results: what `tools/train_net.py` calls."""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import LazyConfig
from detectron2.engine.hooks import IterationTimer, LRScheduler, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipself_d2 import __version__
from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.engine.allocator import keep_freed_memory
from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.config import build, load_config, train_settings
from clipself_d2.engine.evaluate import Results, build_evaluation, evaluate
from clipself_d2.engine.hooks import (
    AfterTraining,
    Evaluate,
    ProgressPrinter,
    SaveCheckpoint,
    Throughput,
    trim_metrics,
)
from clipself_d2.engine.inference import autocast, resolve_device
from clipself_d2.engine.launch import launch
from clipself_d2.engine.settings import TrainSettings
from clipself_d2.engine.trainer import Trainer
from clipself_d2.errors import InputError, RunError

logger = logging.getLogger(__name__)

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
  keep the teacher's embeddings on disk; a run fills the cache as it goes, or all is embedded before:
    python tools/train_net.py --config-file FILE model.teacher_cache.folder=output/teacher_cache
    python tools/train_net.py --config-file FILE model.teacher_cache.folder=output/teacher_cache --fill-teacher-cache
  with torchrun, or on 2 machines (run on both, with --machine-rank 0 and 1):
    torchrun --nproc-per-node 8 tools/train_net.py --config-file FILE
    python tools/train_net.py --config-file FILE --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url
    tcp://HOST:PORT

The run writes config.yaml, log.txt, metrics.json (the training curve), checkpoints, results.json (the last evaluation),
and at the end tower.safetensors + tower.json where the config has an `export`. Data sets are looked for in
$DETECTRON2_DATASETS.
"""


@exit_codes(interrupted="the same command with --resume goes on from the last checkpoint")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    launch(
        run,
        (args,),
        device=resolve_device(train_settings(cfg).device),
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
    parser = ArgumentParser(
        "train_net.py",
        description="Train and evaluate a CLIP image tower.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a config of configs/, or a run's config.yaml")
    add("--resume", action="store_true", help="go on from the newest checkpoint in train.output_dir, if any")
    add("--eval-only", action="store_true", help="evaluate and stop")
    add("--fill-teacher-cache", action="store_true", help="embed all crops of the training set and stop")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks of this machine; on CPU with train.device=cpu")
    add("--num-machines", type=int, default=1, metavar="M", help="machines that run this command")
    add("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0, for several machines")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> Results:
    """Train, evaluate or fill the teacher's cache, on this rank.

    Args:
        args: what `parse_args` gave.

    Returns:
        The last evaluation's results on rank 0, `{task: {metric: value}}`; empty on other ranks and without an
        evaluation.

    Raises:
        InputError: for wrong input.
        RunError: when training had to stop, or a file could not be written (a full disk).
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.train.device = resolve_device(cfg.train.device)
    if cfg.train.device == "cpu":
        keep_freed_memory()
    settings = train_settings(cfg)
    try:
        _set_up(cfg, settings, args)
        model: nn.Module = build(cfg, "model").to(settings.device)
        if settings.init_checkpoint:
            load_model(model, settings.init_checkpoint, settings.init_without)
        if args.fill_teacher_cache:
            fill_teacher_cache(cfg, model)
            return {}
        if args.eval_only:
            if args.resume:
                Checkpointer(settings.output_dir, model=model).resume()
            return evaluate(cfg, model, build_evaluation(cfg))
        return train(cfg, model, resume=args.resume, source=args.config_file)
    except OSError as error:
        where = "" if settings.output_dir in str(error) else f"{settings.output_dir}: "
        raise RunError(
            f"{where}{error}; mend that (free some disk space?), and --resume goes on from the last checkpoint"
        ) from error


def train(cfg: DictConfig, model: nn.Module, *, resume: bool = False, source: str = "") -> Results:
    """Train a model as the config says, evaluate it and export it.

    Args:
        cfg: from `load_config`.
        model: `list[dict] -> {name: loss}` in training, on its device.
        resume: go on from the newest checkpoint of `train.output_dir`.
        source: name of the config for the card of the export.

    Returns:
        The results of the last evaluation on rank 0, else an empty dictionary.

    Raises:
        InputError: when the folder holds checkpoints and `resume` is False, or the config is for evaluation alone.
        RunError: when the loss is not finite or the last checkpoint cannot be written.
    """
    if not cfg.dataloader.get("train"):
        raise InputError(f"{source or 'config'}: has no dataloader.train: it is for evaluation, pass --eval-only")
    settings = train_settings(cfg)
    output = Path(settings.output_dir)
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    if settings.compile:
        model.compile()
    trainer = Trainer(
        _parallel(model, settings),
        (),
        optimizer,
        seed=settings.seed,
        precision=settings.precision,
        accumulate=settings.accumulate,
        clip_grad_norm=settings.clip_grad_norm,
    )
    checkpointer = Checkpointer(
        output, settings.checkpointer.max_to_keep, model=model, optimizer=optimizer, trainer=trainer
    )
    start = 0
    if resume:
        start = checkpointer.resume() or 0
    elif checkpointer.checkpoints():
        raise InputError(f"{output}: holds checkpoints of an earlier run; pass --resume, or another train.output_dir")
    cfg.dataloader.train.start_iter = start
    trainer.data_loader = build(cfg, "dataloader.train")
    cache: Any = getattr(model, "teacher_cache", None)
    if cache is not None:
        with autocast(settings):
            cache.open(build(cfg, "dataloader.train.dataset"), build(cfg, "dataloader.train.mapper"))

    # Built before training, so that what is missing is said now.
    evaluation = build_evaluation(cfg) if cfg.dataloader.get("evaluator") else None
    results: Results = {}

    def test() -> Results:
        results.update(evaluate(cfg, model, evaluation))
        return results

    trainer.register_hooks(
        [
            IterationTimer(),
            LRScheduler(optimizer, build(cfg, "lr_multiplier")),
            Throughput(),
            SaveCheckpoint(checkpointer, settings.checkpointer.period),
            Evaluate(test, settings.eval_period) if evaluation else None,
            AfterTraining(lambda: export(cfg, model, source, results)) if cfg.get("export") else None,
            PeriodicWriter(_writers(output, settings, start), settings.log_period) if comm.is_main_process() else None,
        ]
    )
    trainer.train(start, settings.max_iter)
    return results


def fill_teacher_cache(cfg: DictConfig, model: nn.Module) -> None:
    """Embed every crop that training may draw into the model's cache on disk, in `train.precision`.

    Args:
        cfg: from `load_config`.
        model: with `embed_crops` and a `teacher_cache`, on its device.

    Raises:
        InputError: when the model has no cache.
    """
    cache: Any = getattr(model, "teacher_cache", None)
    if cache is None:
        raise InputError("--fill-teacher-cache: this model has no cache; pass model.teacher_cache.folder=FOLDER")
    dataset, mapper = build(cfg, "dataloader.train.dataset"), build(cfg, "dataloader.train.mapper")
    with autocast(train_settings(cfg)):
        cache.fill(model.embed_crops, dataset, mapper, cfg.dataloader.train.num_workers)


def export(cfg: DictConfig, model: nn.Module, source: str, results: Results) -> None:
    """Call the config's `export(model, path, card)`: a callable that writes a usable model to `tower.safetensors`."""
    settings = train_settings(cfg)
    path = Path(settings.output_dir) / "tower.safetensors"
    card = {
        "config": Path(source).name,
        "data": _describe(cfg.dataloader.train.get("dataset")),
        "steps": settings.max_iter,
        "metrics": results,
        "clipself_d2": __version__,
    }
    build(cfg, "export")(model, path, card)
    logger.info("Exported to %s", path)


def _describe(dataset: Any) -> str:
    """Names of data sets, or of the call that makes the records."""
    if isinstance(dataset, DictConfig):
        return str(getattr(dataset["_target_"], "__qualname__", dataset["_target_"]))
    return dataset if isinstance(dataset, str) else ", ".join(map(str, dataset or ()))


def _set_up(cfg: DictConfig, settings: TrainSettings, args: argparse.Namespace) -> None:
    """Folder, logs, the copy of the config, and seeds: the same on all ranks, so that all build the same model."""
    output = Path(settings.output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"train.output_dir={output}: cannot be made ({error})") from error
    logging.raiseExceptions = False  # a log on a full disk is no reason for a traceback a line
    for name in ("clipself_d2", "detectron2", "fvcore"):
        setup_logger(str(output), distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
    if comm.is_main_process():
        LazyConfig.save(cfg, str(output / "config.yaml"))
    logger.info("%s; %d rank(s) on %s; writing to %s", args.config_file, comm.get_world_size(), settings.device, output)
    if settings.device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as in the released code
    random.seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002  (for libraries that draw from the global generator)
    torch.manual_seed(settings.seed)


def _parallel(model: nn.Module, settings: TrainSettings) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device_ids = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    ddp = settings.ddp
    return DistributedDataParallel(
        model,
        device_ids=device_ids,
        find_unused_parameters=ddp.find_unused_parameters,
        broadcast_buffers=ddp.broadcast_buffers,
        gradient_as_bucket_view=ddp.gradient_as_bucket_view,
    )


def _writers(output: Path, settings: TrainSettings, start: int) -> list[EventWriter]:
    metrics = output / "metrics.json"
    trim_metrics(metrics, start)
    return [ProgressPrinter(settings.max_iter), JSONWriter(str(metrics)), TensorboardXWriter(str(output))]
