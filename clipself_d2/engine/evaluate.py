"""The evaluation of a config: after training, and by itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from clipself_d2.clip.checkpoint import write_atomically
from clipself_d2.engine.config import build, train_settings
from clipself_d2.engine.inference import autocast
from clipself_d2.errors import InputError

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]
Evaluation = tuple[Iterable[list[dict[str, Any]]], DatasetEvaluator]


def build_evaluation(cfg: DictConfig) -> Evaluation:
    """The config's test set and evaluator.

    Raises:
        InputError: when the config has no `dataloader.test` or no `dataloader.evaluator`, or their files are missing.
    """
    if not (cfg.dataloader.get("test") and cfg.dataloader.get("evaluator")):
        raise InputError("config: nothing to evaluate with; define dataloader.test and dataloader.evaluator")
    return build(cfg, "dataloader.test"), build(cfg, "dataloader.evaluator")


def evaluate(cfg: DictConfig, model: nn.Module, evaluation: Evaluation | None = None) -> Results:
    """Evaluate the weights that the model would export, in `train.precision`, and write `results.json`.

    Args:
        cfg: from `load_config`.
        model: `list[dict] -> list[dict]` in evaluation, on its device.
        evaluation: from `build_evaluation`, which is called when it is None.

    Returns:
        `{task: {metric: value}}` on rank 0 (on every rank where the evaluator gives it there).
    """
    settings = train_settings(cfg)
    loader, evaluator = evaluation or build_evaluation(cfg)

    def predict(inputs: list[dict[str, Any]]) -> Any:
        # The model alone: an evaluator's own arithmetic stays in fp32.
        with torch.inference_mode(), autocast(settings):
            return model(inputs)

    with getattr(model, "ensembled_weights", nullcontext)(), inference_context(model):
        results: Results = inference_on_dataset(predict, loader, evaluator)
    if unreadable := sum(comm.all_gather(getattr(loader, "num_unreadable", 0))):
        logger.warning("%d images could not be read; the results are without them", unreadable)
    if comm.is_main_process():
        text = json.dumps(results, indent=2) + "\n"
        write_atomically(Path(settings.output_dir) / "results.json", lambda file: file.write_text(text))
        for task, metrics in results.items():
            logger.info("%s: %s", task, "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    return results
