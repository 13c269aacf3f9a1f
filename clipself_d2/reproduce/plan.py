"""From the rows of a table to commands of `tools/train_net.py`, and what these commands need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from clipself_d2.errors import InputError
from clipself_d2.reproduce.table import Run, Table
from clipself_d2.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
TRAIN_NET = ROOT / "tools/train_net.py"
TOWER = "tower.safetensors"

# Steps of training that an evaluation takes as long as, for the estimate of the time that is left.
_EVALUATION_STEPS = 30


@dataclass(frozen=True)
class Need:
    """Something that a command reads.

    Attributes:
        what: it is, and where.
        missing: how to mend that it is not there; "" when it is there or is made or fetched by the command.
    """

    what: str
    missing: str = ""


@dataclass(frozen=True)
class Job:
    """A run, planned.

    Attributes:
        run: what is to be run.
        config: its whole config.
        folder: where it writes; named by the config and the digest.
        arguments: of `tools/train_net.py`.
        digest: of everything that decides the numbers.
        source: the job whose tower this one evaluates.
    """

    run: Run
    config: DictConfig
    folder: Path
    arguments: tuple[str, ...]
    digest: str
    source: Job | None = None

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(["python", os.path.relpath(TRAIN_NET), *self.arguments])

    @property
    def tower(self) -> Path | str | None:
        """The weights of the tower that the job's numbers are of: a file, an open_clip tag, or "random"."""
        return self.folder / TOWER if self.run.trains else self.config.clip.pretrained

    @property
    def cost(self) -> float:
        """Work, in a unit of its own: steps times pixels of the student's image."""
        steps = self.config.train.max_iter if self.run.trains else _EVALUATION_STEPS
        return float(steps * self.config.model.get("student_size", 1) ** 2)

    @cached_property
    def needs(self) -> list[Need]:
        """Weights and data sets."""
        data = self.config.dataloader
        datasets = [data.train.dataset, data.test.dataset] if self.run.trains else [data.test.dataset]
        needs = [need for name in datasets for need in _dataset_needs(name)]
        if self.run.trains and (file := data.train.mapper.get("regions", {}).get("json_file")):
            needs.append(_file_need("proposals", file))
        weights = Need(f"weights: the tower of {self.source.folder}") if self.source else _weights_need(self.config)
        return [weights, *needs]


class Planner:
    """Plans the runs of tables; equal configs become one run, in whichever tables they appear."""

    def __init__(
        self, output: str | Path, overrides: Sequence[str] = (), device: str | None = None, num_gpus: int = 1
    ) -> None:
        """Sets what all runs share.

        Args:
            output: folder of all results; runs write to `runs/` in it.
            overrides: `key=value` for every run; they win over a row's own.
            device: "cuda", "cpu" or "auto"; None leaves it to the config.
            num_gpus: ranks of each run.
        """
        self.output = Path(output)
        self.overrides = tuple(overrides)
        self.settings = (f"train.device={device}",) if device else ()
        self.options = ("--num-gpus", str(num_gpus)) if num_gpus != 1 else ()
        self._jobs: dict[Run, Job] = {}

    def job(self, run: Run) -> Job:
        """The job of a run.

        Raises:
            InputError: when an override does not fit the config.
        """
        if run not in self._jobs:
            source = self.job(run.tower) if run.tower else None
            file = os.path.relpath(ROOT / "configs" / run.config)
            overrides = [*run.overrides, *self.overrides, *self.settings]
            if source:
                overrides.append(_override("clip.pretrained", source.folder / TOWER))
            config = load_config(file, overrides)
            digest = _digest(config, run, source)
            folder = self.output / "runs" / f"{Path(run.config).stem}-{digest[:10]}"
            overrides.append(_override("train.output_dir", folder))
            mode = "--resume" if run.trains else "--eval-only"
            config.train.output_dir = str(folder)
            arguments = ("--config-file", file, mode, *self.options, *overrides)
            self._jobs[run] = Job(run, config, folder, arguments, digest, source)
        return self._jobs[run]

    def jobs(self, table: Table) -> list[Job]:
        """The different jobs of a table, each after the one whose tower it evaluates.

        Raises:
            InputError: when the overrides make rows the same that should differ.
        """
        jobs: dict[str, Job] = {}
        labels: dict[str, tuple[Run, str]] = {}
        for row in table.rows:
            job = self.job(row.run)
            run, label = labels.setdefault(job.digest, (row.run, row.label))
            if run != row.run:
                raise InputError(
                    f"{' '.join(self.overrides)}: rows '{label}' and '{row.label}' of table {table.name} would be the "
                    f"same run; leave out what the table varies"
                )
            chain = [job]
            while chain[0].source:
                chain.insert(0, chain[0].source)
            jobs.update((link.digest, link) for link in chain if link.digest not in jobs)
        return list(jobs.values())


def missing(jobs: Sequence[Job]) -> list[str]:
    """What the jobs need and is not there, each once, with the mend."""
    return list(dict.fromkeys(f"{need.what}: {need.missing}" for job in jobs for need in job.needs if need.missing))


def _dataset_needs(name: str) -> list[Need]:
    if name not in DatasetCatalog:
        return [Need(f"data set {name}", "not registered; see datasets/README.md for the names")]
    metadata = MetadataCatalog.get(name).as_dict()
    places = [metadata[key] for key in ("json_file", "panoptic_json", "image_root") if metadata.get(key)]
    if not places:
        return [Need(f"data set {name}: made at its first use")]
    return [_file_need(f"data set {name}", place) for place in places]


def _file_need(what: str, path: str) -> Need:
    hint = "not there; see datasets/README.md, and set DETECTRON2_DATASETS if it lies elsewhere"
    return Need(f"{what}: {path}", "" if Path(path).exists() else hint)


def _weights_need(config: DictConfig) -> Need:
    import open_clip  # slow to import

    name, weights = config.clip.name, config.clip.pretrained
    if weights in (None, "random"):
        return Need(f"weights: {name}, random")
    if weights in open_clip.list_pretrained_tags_by_model(name):
        return Need(f"weights: {name}, open_clip's '{weights}', downloaded at the first use")
    there = Path(str(weights)).is_file()
    return Need(f"weights: {name}, {weights}", "" if there else "no such file, and no tag of open_clip's")


def _digest(config: DictConfig, run: Run, source: Job | None) -> str:
    """A hash of what decides the numbers: not of where they are written or computed."""
    config = config.copy()
    weights = config.clip.pretrained
    config.train.update(output_dir="", device="auto")
    config.clip.pretrained = ""
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if not run.trains:
        parts = {name: content["dataloader"][name] for name in ("test", "evaluator")}
        train = {name: content["train"][name] for name in ("seed", "precision")}
        content = {"clip": content["clip"], "model": content["model"], "dataloader": parts, "train": train}
    content["weights"] = source.digest if source else _file_digest(weights)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_name).encode()).hexdigest()


def _file_digest(weights: str | None) -> str:
    if weights and Path(weights).is_file():
        return hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return str(weights)


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _override(key: str, value: Path) -> str:
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"
