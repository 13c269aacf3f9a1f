"""From a table's rows to commands, and the folders that these write to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipself_d2.clip.tower import ImageTower
from clipself_d2.engine.config import load_config
from clipself_d2.errors import InputError
from reproduction.shared import COMPARED
from reproduction.tables import Run, Table

ROOT = Path(__file__).resolve().parents[2]
FINISHED = "finished.json"
PRODUCTS = {
    "make_proposals": "proposals.json",
    "make_region_text": "pairs.json",
    "probe_coherence": "coherence.png",
}
"""What other tools than `train_net` write."""


@dataclass(frozen=True)
class Job:
    """A planned run.

    Attributes:
        run: what is run.
        config: its whole config.
        folder: where it writes; its name ends with the digest.
        digest: a hash of what decides the numbers: equal runs of several tables are one.
        sources: the jobs whose products it uses, by key or option.
        overrides: of the config.
        options: of `train_net`.
    """

    run: Run
    config: DictConfig
    folder: Path
    digest: str
    sources: dict[str, Job]
    overrides: list[str]
    options: list[str]

    @property
    def tool(self) -> Path:
        """The script."""
        return ROOT / f"tools/{self.run.tool}.py"

    @property
    def arguments(self) -> list[str]:
        """Arguments of the tool."""
        config = ["--config-file", os.path.relpath(ROOT / "configs" / self.run.config)]
        overrides = [*self.overrides, _override("train.output_dir", self.folder)]
        if self.run.tool == "train_net":
            return [*config, "--resume" if self.run.trains else "--eval-only", *self.options, *overrides]
        used = [word for option, source in self.sources.items() for word in (option, str(source.product))]
        output = self.folder if self.run.tool == "probe_coherence" else self.product
        data = ["--dataset", self.run.dataset, "--output", str(output)]
        if self.run.tool == "make_proposals":
            return [*config, *used, *data, *overrides]
        clip, device = self.config.clip, ["--device", str(self.config.train.device)]
        weights = ["--clip", str(clip.name), "--pretrained", clip.pretrained or "null"]
        if self.run.tool == "make_region_text":
            return [*used, *weights, *data, *device]
        size = ["--size", str(self.config.model.student_size), "--modes", *ImageTower.dense_modes]
        return [*weights, used[1], "--labels", *COMPARED, *size, *data, *device]

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(["python", os.path.relpath(self.tool), *self.arguments])

    @property
    def product(self) -> Path | None:
        """The file that others take from this run: a tower, a checkpoint, regions or a figure."""
        if self.run.tool in PRODUCTS:
            return self.folder / PRODUCTS[self.run.tool]
        if not self.run.trains:
            return None
        checkpoint = f"checkpoint_{self.config.train.max_iter:07d}.pth"
        return self.folder / ("tower.safetensors" if self.config.get("export") else checkpoint)

    @property
    def record(self) -> dict[str, Any] | None:
        """`digest`, `command`, `seconds` and `results`, if it is finished and what others take from it is there."""
        path = self.folder / FINISHED
        if not path.is_file() or (self.product and not self.product.is_file()):
            return None
        content: dict[str, Any] = json.loads(path.read_text())
        return content if content["digest"] == self.digest else None

    @property
    def results(self) -> Path | None:
        """Its `results.json`; no tool for regions has one, and no training without an evaluator."""
        evaluated = self.run.tool == "train_net" and self.config.dataloader.get("evaluator")
        return self.folder / "results.json" if evaluated or self.run.tool == "probe_coherence" else None


class Planner:
    """Plans the runs of tables.

    Args:
        output: folder of all results; runs write to `runs/` in it.
        overrides: `key=value` for every run; they win over a row's own.
        device: "cuda", "cpu" or "auto"; None leaves it to the config.
        num_gpus: ranks of each run.
    """

    def __init__(
        self, output: str | Path, overrides: Sequence[str] = (), device: str | None = None, num_gpus: int = 1
    ) -> None:
        self.output = Path(output)
        self.overrides = [*overrides, *([f"train.device={device}"] if device else [])]
        self.options = ["--num-gpus", str(num_gpus)] if num_gpus != 1 else []
        self._jobs: dict[Run, Job] = {}

    def job(self, run: Run) -> Job:
        """Plan a run.

        Raises:
            InputError: when an override does not fit the config.
        """
        if run not in self._jobs:
            sources = {key: self.job(source) for key, source in run.uses}
            made = [_override(key, job.product) for key, job in sources.items() if not key.startswith("--")]
            overrides = [*run.overrides, *self.overrides, *made]
            config = load_config(os.path.relpath(ROOT / "configs" / run.config), overrides)
            digest = _digest(config, run, sources)
            kind = "" if run.tool == "train_net" else run.tool.rpartition("_")[2]
            folder = self.output / "runs" / "-".join(filter(None, (Path(run.config).stem, kind, digest[:10])))
            config.train.output_dir = str(folder)
            self._jobs[run] = Job(run, config, folder, digest, sources, overrides, self.options)
        return self._jobs[run]

    def jobs(self, table: Table) -> list[Job]:
        """The different jobs of a table, each after those that it uses.

        Raises:
            InputError: when the overrides make rows the same that should differ.
        """
        rows: dict[str, tuple[Run, str]] = {}
        for row in table.rows:
            run, label = rows.setdefault(self.job(row.run).digest, (row.run, row.label))
            if run != row.run:
                raise InputError(
                    f"{' '.join(self.overrides)}: rows '{label}' and '{row.label}' of table {table.name} would be the "
                    f"same run; leave out what the table varies"
                )
        found: dict[str, Job] = {}

        def add(job: Job) -> None:
            for source in job.sources.values():
                add(source)
            found.setdefault(job.digest, job)

        for row in table.rows:
            add(self.job(row.run))
        return list(found.values())


def _digest(config: DictConfig, run: Run, sources: dict[str, Job]) -> str:
    """A hash of what decides the numbers: not of where they are computed or written."""
    config = config.copy()
    config.train.update(output_dir="", device="auto")
    for key in sources:
        if not key.startswith("--"):
            OmegaConf.update(config, key, "")
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if not run.trains:
        for name in ("optimizer", "lr_multiplier", "export"):
            content.pop(name, None)
        content["dataloader"].pop("train", None)
        content["train"] = {name: content["train"][name] for name in ("seed", "precision", "init_checkpoint")}
    used = {key: job.digest for key, job in sources.items()}
    text = json.dumps([run.tool, run.trains, run.dataset, content, used], sort_keys=True, default=_name)
    return hashlib.sha256(text.encode()).hexdigest()


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _override(key: str, value: Path | None) -> str:
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"
