"""A run of a config: training, evaluation and export."""

from __future__ import annotations

import argparse
import copy
import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.engine import create_ddp_model, default_writers
from detectron2.engine.hooks import EvalHook, IterationTimer, LRScheduler, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from clipself_d2 import __version__
from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.clip.frozen import compile_towers
from clipself_d2.engine.allocator import keep_freed_memory
from clipself_d2.engine.checkpoint import Checkpointer, load_model
from clipself_d2.engine.config import build, load_config, train_settings
from clipself_d2.engine.evaluate import Results, build_evaluation, evaluate
from clipself_d2.engine.folder import locked
from clipself_d2.engine.hooks import EarlyEstimate, SaveCheckpoint, Throughput, trim_metrics
from clipself_d2.engine.inference import autocast, check_precision, resolve_device
from clipself_d2.engine.resume import ConfigRecord, OptimizerState
from clipself_d2.engine.settings import TrainSettings
from clipself_d2.engine.trainer import Trainer
from clipself_d2.engine.wandb_writer import WandbWriter
from clipself_d2.errors import InputError, RunError, lack_of_resources

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, cfg: DictConfig | None = None) -> Results:
    """Train, evaluate or fill the teacher's cache, on this rank.

    Args:
        args: the command line, from `engine.main.parse_args`.
        cfg: its config; None reads it, in a spawned rank.

    Returns:
        The last evaluation's results on rank 0, `{task: {metric: value}}`; empty on other ranks and without an
        evaluation.

    Raises:
        InputError: for wrong input.
        RunError: when training had to stop, or a file could not be written (a full disk).
    """
    if cfg is None:
        cfg = load_config(args.config_file, args.opts, untrusted=args.untrusted_config)
    cfg.train.device = resolve_device(cfg.train.device)
    if cfg.train.device == "cpu":
        keep_freed_memory()
    settings = train_settings(cfg)
    check_precision(settings)
    try:
        with locked(Path(settings.output_dir)) if comm.is_main_process() else nullcontext():
            _set_up(settings, args.config_file)
            model: nn.Module = build(cfg, "model").to(settings.device)
            if settings.init_checkpoint:
                load_model(model, settings.init_checkpoint, settings.init_without)
            if settings.compile:
                compile_towers(model)
            if args.fill_teacher_cache:
                fill_teacher_cache(cfg, model)
                return {}
            if args.eval_only:
                if args.resume and Checkpointer(settings.output_dir, model=model).resume() is None:
                    raise InputError(f"--resume: {settings.output_dir} holds no checkpoint to evaluate")
                return evaluate(cfg, model, build_evaluation(cfg))
            return train(cfg, model, resume=args.resume, source=args.config_file)
    except OSError as error:
        where = "" if settings.output_dir in str(error) else f"{settings.output_dir}: "
        advice = "fix that (free some disk space?), and --resume goes on from the last checkpoint"
        raise lack_of_resources(error) or RunError(f"{where}{error}; {advice}") from error


def train(cfg: DictConfig, model: nn.Module, *, resume: bool = False, source: str = "") -> Results:
    """Train a model as the config says, evaluate it and export it.

    Args:
        cfg: from `load_config`.
        model: `list[dict] -> {name: loss}` in training, on its device.
        resume: go on from the newest checkpoint in `train.output_dir`.
        source: name of the config, for the card of the export.

    Returns:
        The results of the last evaluation on rank 0, else an empty dictionary.

    Raises:
        InputError: the folder holds checkpoints and `resume` is False, or the config is for evaluation alone, or has a
            value that cannot take effect any more.
        RunError: the loss or a weight is not finite, or the last checkpoint cannot be written.
        Interrupted: a signal came; there is a checkpoint of all finished iterations.
    """
    if not cfg.dataloader.get("train"):
        raise InputError(f"{source or 'config'}: has no dataloader.train: it is for evaluation, pass --eval-only")
    settings, given = train_settings(cfg), copy.deepcopy(cfg)
    output = Path(settings.output_dir)
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    trainer = Trainer(
        create_ddp_model(model, device_ids=None, **vars(settings.ddp)),
        (),
        optimizer,
        seed=settings.seed,
        precision=settings.precision,
        accumulate=settings.accumulate,
        clip_grad_norm=settings.clip_grad_norm,
    )
    record = ConfigRecord(given)
    checkpointer = Checkpointer(
        output,
        settings.checkpointer.max_to_keep,
        config=record,
        model=model,
        optimizer=OptimizerState(optimizer, model),
        trainer=trainer,
    )
    start = 0
    if resume:
        start = checkpointer.resume() or 0
    elif checkpointer.checkpoints():
        raise InputError(f"{output}: holds checkpoints of an earlier run; pass --resume, or another train.output_dir")
    if start > settings.max_iter:
        raise InputError(f"train.max_iter={settings.max_iter}: {output} has finished {start}; pass at least {start}")
    cfg.dataloader.train.start_iter = start
    trainer.data_loader = build(cfg, "dataloader.train")
    cache: Any = getattr(model, "teacher_cache", None)
    if cache is not None:
        with autocast(settings):
            cache.open(build(cfg, "dataloader.train.dataset"), build(cfg, "dataloader.train.mapper"))
    # Built before training, to report what is missing now.
    evaluation = build_evaluation(cfg) if cfg.dataloader.get("evaluator") else None
    results: Results = {}

    def test() -> Results:
        if trainer.iter == settings.max_iter - 1:  # EvalHook evaluates after a failure in the last iteration too
            return {}
        with trainer.stop_request.suspended():
            results.update(evaluate(cfg, model, evaluation))
        return results

    hooks = [
        IterationTimer(),
        LRScheduler(optimizer, build(cfg, "lr_multiplier")),
        EarlyEstimate(),
        Throughput(),
        SaveCheckpoint(checkpointer, settings.checkpointer.period, settings.eval_period if evaluation else 0),
        EvalHook(settings.eval_period, test) if evaluation else None,
    ]
    if comm.is_main_process():
        write_atomically(output / "config.yaml", lambda file: LazyConfig.save(given, str(file)))
        trim_metrics(output / "metrics.json", start)
        writers = default_writers(str(output), settings.max_iter)
        if settings.wandb:
            writers.append(WandbWriter(settings.wandb, output, record.state_dict()))
        hooks.append(PeriodicWriter(writers, settings.log_period))
    trainer.register_hooks(hooks)
    trainer.train(start, settings.max_iter)
    if cfg.get("export") and comm.is_main_process():
        export(cfg, model, source, results)
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
    """Call the config's `export(model, path, card)`, which writes a usable model to `tower.safetensors`."""
    settings = train_settings(cfg)
    path = Path(settings.output_dir) / "tower.safetensors"
    card = {
        "config": Path(source).name,
        "data": _dataset_name(cfg.dataloader.train.get("dataset")),
        "steps": settings.max_iter,
        "metrics": results,
        "clipself_d2": __version__,
    }
    build(cfg, "export")(model, path, card)
    logger.info("Exported to %s", path)


def _dataset_name(dataset: Any) -> str:
    """Names of data sets, of the call that makes the records, or of the folder or json without what is above it."""
    if isinstance(dataset, DictConfig):
        return str(getattr(dataset["_target_"], "__qualname__", dataset["_target_"]))
    names = [dataset] if isinstance(dataset, str) else map(str, dataset or ())
    return ", ".join(re.sub(r"^(images|objects):.*/([^/?]+).*", r"\2", name) for name in names)


def _set_up(settings: TrainSettings, source: str) -> None:
    """Set up logs, seeds and CUDA.

    Detectron2's `default_setup` seeds each rank differently. Here all ranks must build the same model: DDP does not
    send modules that are kept outside of it, such as a frozen teacher, to the other ranks.
    """
    output = settings.output_dir
    logging.raiseExceptions = False  # no traceback per line while the disk is full
    for name in ("clipself_d2", "detectron2", "fvcore"):
        setup_logger(output, distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
    logger.info("%s; %d rank(s) on %s; writing to %s", source, comm.get_world_size(), settings.device, output)
    if settings.device != "cpu":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as in the released code
    seed_all_rng(settings.seed)
