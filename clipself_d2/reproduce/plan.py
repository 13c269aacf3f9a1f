"""From the rows of a table to commands of tools, and what these commands need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
MAKE_PROPOSALS = ROOT / "tools/make_proposals.py"
TOWER = "tower.safetensors"
PROPOSALS = "proposals.json"

# What a run takes from another: the key of its config that names the file.
_KEYS = {
    "tower": "clip.pretrained",
    "detector": "train.init_checkpoint",
    "proposals": "dataloader.train.mapper.regions.json_file",
    "masks": "model.generator.checkpoint",
}
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
        tool: the script that runs it.
        arguments: of the tool.
        digest: of everything that decides the numbers.
        sources: the jobs that it takes a "tower", a "detector", "proposals" or "masks" from.
    """

    run: Run
    config: DictConfig
    folder: Path
    tool: Path
    arguments: tuple[str, ...]
    digest: str
    sources: dict[str, Job] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(["python", os.path.relpath(self.tool), *self.arguments])

    @property
    def product(self) -> Path | None:
        """The file that other runs take from this one: a tower, another model's checkpoint, or proposals."""
        if self.run.proposes:
            return self.folder / PROPOSALS
        if not self.run.trains:
            return None
        return self.folder / (
            TOWER if self.config.get("export") else f"checkpoint_{self.config.train.max_iter:07d}.pth"
        )

    @property
    def judged(self) -> bool:
        """Whether it writes results: proposing does not, nor a training whose config has no evaluator."""
        return not self.run.proposes and bool(self.config.dataloader.get("evaluator"))

    @property
    def tower(self) -> Path | str | None:
        """The weights of the tower that the job's numbers are of: a file, an open_clip tag, or "random"."""
        return self.product if self.run.trains else self.config.clip.pretrained

    @property
    def cost(self) -> float:
        """Work, in a unit of its own: steps times pixels of the model's image."""
        steps = self.config.train.max_iter if self.run.trains else _EVALUATION_STEPS
        sides = (self.config.model.get(name) for name in ("student_size", "size", "short_edge"))
        return float(steps * next(filter(None, sides), 1) ** 2)

    @cached_property
    def needs(self) -> list[Need]:
        """Weights and data sets."""
        data = self.config.dataloader
        datasets = [data.train.dataset] if self.run.trains else []
        if self.run.proposes:
            datasets = [self.run.proposes]
        elif "test" in data:  # a mask generator is trained without being judged
            datasets.append(data.test.dataset)
        made = [Need(f"{_WHAT[name]} of {job.folder}") for name, job in self.sources.items()]
        files = [need for name in ("detector", "proposals", "masks") for need in self._file_needs(name)]
        weights = [] if "tower" in self.sources else _weights_needs(self.config)
        return [*made, *weights, *(need for name in datasets for need in _dataset_needs(name)), *files]

    def _file_needs(self, name: str) -> list[Need]:
        file = OmegaConf.select(self.config, _KEYS[name])
        read = self.run.trains or name != "proposals"
        return [_file_need(name, file)] if file and read and name not in self.sources else []


_WHAT = {
    "tower": "weights: the tower",
    "detector": "the detector",
    "proposals": "the proposals",
    "masks": "the mask generator",
}


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
            sources = self._sources(run)
            file = os.path.relpath(ROOT / "configs" / run.config)
            # The tool that proposes is given the detector by an argument of its own.
            given = [name for name in sources if not (run.proposes and name == "detector")]
            made = [_override(_KEYS[name], sources[name].product) for name in given]
            overrides = [*run.overrides, *self.overrides, *self.settings, *made]
            config = load_config(file, overrides)
            digest = _digest(config, run, sources)
            name = f"{Path(run.config).stem}{'-proposals' if run.proposes else ''}-{digest[:10]}"
            folder = self.output / "runs" / name
            config.train.output_dir = str(folder)
            overrides.append(_override("train.output_dir", folder))
            if run.proposes:
                options = ["--weights", str(sources["detector"].product), "--dataset", run.proposes]
                options += ["--output", str(folder / PROPOSALS)]
            else:
                options = ["--resume" if run.trains else "--eval-only", *self.options]
            tool = MAKE_PROPOSALS if run.proposes else TRAIN_NET
            arguments = ("--config-file", file, *options, *overrides)
            self._jobs[run] = Job(run, config, folder, tool, arguments, digest, sources)
        return self._jobs[run]

    def jobs(self, table: Table) -> list[Job]:
        """The different jobs of a table, each after those that it takes something from.

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
            jobs.update((link.digest, link) for link in _chain(job) if link.digest not in jobs)
        return list(jobs.values())

    def _sources(self, run: Run) -> dict[str, Job]:
        # A detector is used on the tower that it was trained on.
        tower = run.tower or (run.detector.tower if run.detector else None)
        wanted = {"tower": tower, "detector": run.detector, "proposals": run.proposals, "masks": run.masks}
        return {name: self.job(source) for name, source in wanted.items() if source}


def _chain(job: Job) -> Iterator[Job]:
    """A job after all that it takes something from."""
    for source in job.sources.values():
        yield from _chain(source)
    yield job


def missing(jobs: Sequence[Job]) -> list[str]:
    """What the jobs need and is not there, each once, with the mend."""
    return list(dict.fromkeys(f"{need.what}: {need.missing}" for job in jobs for need in job.needs if need.missing))


def _dataset_needs(name: str) -> list[Need]:
    if name not in DatasetCatalog:
        return [Need(f"data set {name}", "not registered; see datasets/README.md for the names")]
    metadata = MetadataCatalog.get(name).as_dict()
    places = [metadata[key] for key in ("json_file", "panoptic_json", "image_root") if metadata.get(key)]
    if not places or metadata.get("made_at_first_use"):
        return [Need(f"data set {name}: made at its first use")]
    return [_file_need(f"data set {name}", place) for place in places]


def _file_need(what: str, path: str) -> Need:
    hint = "not there; see datasets/README.md, and set DETECTRON2_DATASETS if it lies elsewhere"
    return Need(f"{what}: {path}", "" if Path(path).exists() else hint)


def _weights_needs(config: DictConfig) -> list[Need]:
    import open_clip  # slow to import

    if "clip" not in config:  # a network of its own, such as the region proposal network's
        file = OmegaConf.select(config, "model.backbone.bottom_up.weights")
        return [_file_need("weights", file)] if file not in (None, "random") else []
    name, weights = config.clip.name, config.clip.pretrained
    if weights in (None, "random"):
        return [Need(f"weights: {name}, random")]
    if weights in open_clip.list_pretrained_tags_by_model(name):
        return [Need(f"weights: {name}, open_clip's '{weights}', downloaded at the first use")]
    there = Path(str(weights)).is_file()
    return [Need(f"weights: {name}, {weights}", "" if there else "no such file, and no tag of open_clip's")]


def _digest(config: DictConfig, run: Run, sources: dict[str, Job]) -> str:
    """A hash of what decides the numbers: not of where they are written or computed."""
    config = config.copy()
    weights = OmegaConf.select(config, _KEYS["tower"])
    config.train.update(output_dir="", device="auto")
    for name, key in _KEYS.items():
        if name in sources or (name == "tower" and "clip" in config):
            OmegaConf.update(config, key, "")
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if not run.trains:
        parts = {name: content["dataloader"][name] for name in ("test", "evaluator")}
        train = {name: content["train"][name] for name in ("seed", "precision")}
        content = {"clip": content.get("clip"), "model": content["model"], "train": train}
        content["dataloader"] = {"proposes": run.proposes} if run.proposes else parts
    content["weights"] = sources["tower"].digest if "tower" in sources else _file_digest(weights)
    content.update((name, source.digest) for name, source in sources.items() if name != "tower")
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_name).encode()).hexdigest()


def _file_digest(weights: str | None) -> str:
    if weights and Path(weights).is_file():
        return hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return str(weights)


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _override(key: str, value: Path | None) -> str:
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"
