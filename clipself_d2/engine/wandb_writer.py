"""The metrics of a run in Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from clipself_d2.errors import require


class WandbWriter(EventWriter):
    """Detectron2's writer of all scalars of an iteration, smoothed as in the log.

    Weights & Biases itself is told by its environment variables where to write (``WANDB_MODE=offline``, ...).

    Args:
        project: name of the project.
        output_dir: of the run, whose last folder names it; a resumed run goes on there.
        config: what the run's page shows as its configuration.
        window: iterations that scalars are smoothed over.

    Raises:
        InputError: the package wandb is not installed.
    """

    def __init__(self, project: str, output_dir: str | Path, config: dict[str, Any], window: int = 20) -> None:
        require("wandb", "wandb", "train.wandb")
        import wandb

        output = Path(output_dir).resolve()
        self.run = wandb.init(project=project, name=output.name, dir=str(output), config=config, resume="auto")
        self.window = window
        self._written = -1

    def write(self) -> None:
        """Write the scalars that are new since the last call."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(self.window)
        scalars = {name: value for name, (value, iteration) in latest.items() if iteration > self._written}
        self._written = storage.iter
        self.run.log(scalars, step=storage.iter)

    def close(self) -> None:
        """End the run."""
        self.run.finish()
