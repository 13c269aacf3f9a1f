"""The `train` section of a config: every setting that the run reads, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from clipself_d2.engine.trainer import PRECISIONS
from clipself_d2.errors import InputError


@dataclass
class CheckpointSettings:
    """When checkpoints are written and how many are kept."""

    period: int = 1000  # iterations; 0 for the last one only
    max_to_keep: int = 3


@dataclass
class DDPSettings:
    """Arguments of `DistributedDataParallel`."""

    find_unused_parameters: bool = False
    broadcast_buffers: bool = False
    gradient_as_bucket_view: bool = True


@dataclass
class TrainSettings:
    """Settings of a run.

    Attributes:
        output_dir: folder of everything that the run writes; `load_config` defaults to `output/NAME` for `NAME.py`.
        max_iter: number of optimizer steps.
        seed: of initial values, sampling and everything random inside the model.
        device: "cuda", "cpu", or "auto" (CUDA where there is a device).
        precision: "fp32", "bf16" or "fp16"; of training and of evaluation.
        accumulate: number of chunks that a rank's batch is cut into to save memory; the loss does not change.
        clip_grad_norm: largest global norm of the gradient, or None.
        compile: compile the blocks of the model's image towers, see `compile_towers`.
        activation_checkpointing: recompute activations in the backward pass to save memory; read by the model's config.
        log_period: iterations between lines of the log and of metrics.json.
        wandb: project in Weights & Biases that gets the metrics, too; "" for none.
        eval_period: iterations between evaluations; 0 evaluates only after the last.
        init_checkpoint: a raw `checkpoint_*.pth` whose model is loaded before training or evaluation; "" loads nothing.
        init_without: beginnings of parameter names to leave out of it: "roi_heads.mask_head." to detect boxes with a
            detector that was trained on masks too.
        checkpointer: see `CheckpointSettings`.
        ddp: see `DDPSettings`.
    """

    output_dir: str = "output/run"
    max_iter: int = 1000
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad_norm: Optional[float] = None  # noqa: UP045  (OmegaConf reads the annotation)
    compile: bool = False
    activation_checkpointing: bool = False
    log_period: int = 20
    wandb: str = ""
    eval_period: int = 0
    init_checkpoint: str = ""
    init_without: list[str] = field(default_factory=list)
    checkpointer: CheckpointSettings = field(default_factory=CheckpointSettings)
    ddp: DDPSettings = field(default_factory=DDPSettings)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: names the setting and its range.
        """
        minima = {"max_iter": 1, "seed": 0, "accumulate": 1, "log_period": 1, "eval_period": 0}
        for name, least in minima.items():
            if getattr(self, name) < least:
                raise InputError(f"train.{name}={getattr(self, name)}: must be at least {least}")
        if self.checkpointer.period < 0 or self.checkpointer.max_to_keep < 1:
            raise InputError("train.checkpointer: period must be at least 0 and max_to_keep at least 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"train.precision={self.precision}: must be one of {', '.join(PRECISIONS)}")
        if self.device not in ("auto", "cuda", "cpu"):
            raise InputError(f"train.device={self.device}: must be auto, cuda or cpu")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise InputError(f"train.clip_grad_norm={self.clip_grad_norm}: must be positive, or null for no clipping")
