"""Overrides of a config, as the commands for own data make them."""

from collections.abc import Sequence

from clipself_d2.cli.arguments import own_weights
from clipself_d2.command_line import weights


def override(key: str, value: str | None) -> str:
    """Write `key=value` for a text of any characters, or for None."""
    if value is None:
        return f"{key}=null"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def clip_overrides(name: str | None, pretrained: str | None) -> list[str]:
    """The overrides that name another CLIP and its weights, where they are given; "null" stands for random weights."""
    named = [override("clip.name", name)] if name else []
    pretrained = pretrained or own_weights(name)
    return [*named, override("clip.pretrained", weights(pretrained))] if pretrained else named


def with_epochs(config_file: str, dataset: str, epochs: float, overrides: Sequence[str]) -> list[str]:
    """Add the training set of a config, and how long to train on it.

    The run evaluates at its end, and warms up for a twentieth of its steps at most.

    Args:
        config_file: of the training.
        dataset: the name of the data set, which is read.
        epochs: passes over its images.
        overrides: the others; they win.

    Raises:
        InputError: the data set cannot be read, or a wrong override.
    """
    from clipself_d2.data import get_dataset
    from clipself_d2.engine.config import load_config

    cfg = load_config(config_file, overrides)
    images = len(get_dataset(dataset))
    steps = max(1, round(epochs * images / cfg.dataloader.train.total_batch_size))
    warmup = min(cfg.lr_multiplier.warmup_iters, steps // 20)
    print(f"{images:,} images, {steps:,} steps of {cfg.dataloader.train.total_batch_size}", flush=True)
    return [
        override("dataloader.train.dataset", dataset),
        f"train.max_iter={steps}",
        "train.eval_period=0",
        f"lr_multiplier.warmup_iters={warmup}",
        *overrides,
    ]
