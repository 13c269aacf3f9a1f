"""From the rows of a table to commands of tools, and what these commands need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipself_d2.clip.tower import DENSE_MODES
from clipself_d2.engine.config import load_config
from clipself_d2.errors import InputError
from clipself_d2.reproduce.needs import Need, dataset_needs, file_need, weights_needs
from clipself_d2.reproduce.table import Run, Table

ROOT = Path(__file__).resolve().parents[2]
TOWER = "tower.safetensors"
# What is taken from the tools but `train_net`.
_PRODUCTS = {
    "make_proposals": "proposals.json",
    "make_region_text": "pairs.json",
    "probe_coherence": "coherence.png",
}

# What a run takes from another: the key of its config that names the file.
_KEYS = {
    "tower": "clip.pretrained",
    "model": "train.init_checkpoint",
    "regions": "dataloader.train.mapper.regions.json_file",
    "masks": "model.generator.checkpoint",
}
# What else of a config is a file, or a folder of files, of the user's.
_BACKBONE = "model.backbone.bottom_up.weights"
_MASKS_FOLDER = "model.generator.folder"
# What `probe_coherence` calls the tower that a run starts from, and the one that it exports.
COMPARED = ("original", "CLIPSelf")
# Steps of training that an evaluation takes as long as, for the estimate of the time that is left.
_EVALUATION_STEPS = 30


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
        sources: the jobs that it takes a "tower", a "model", "regions" or "masks" from.
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
        """The file that is taken from this run: a tower, another model's checkpoint, regions, or a picture."""
        if name := _PRODUCTS.get(self.run.tool):
            return self.folder / name
        if not self.run.trains:
            return None
        return self.folder / (
            TOWER if self.config.get("export") else f"checkpoint_{self.config.train.max_iter:07d}.pth"
        )

    @property
    def judged(self) -> bool:
        """Whether it writes results: a tool for regions does not, nor a training whose config has no evaluator."""
        if self.run.tool == "train_net":
            return bool(self.config.dataloader.get("evaluator"))
        return self.run.tool == "probe_coherence"

    @property
    def tower(self) -> Path | str | None:
        """The weights of the tower that the job's numbers are of: a file, an open_clip tag, or "random"."""
        return self.product if self.run.trains else self.config.clip.pretrained

    @property
    def cost(self) -> float:
        """Work, in a unit of its own: steps times pixels of the model's image. A training ends with an evaluation."""
        steps = _EVALUATION_STEPS + (self.config.train.max_iter if self.run.trains else 0)
        sides = (self.config.model.get(name) for name in ("student_size", "size", "short_edge"))
        return float(steps * next(filter(None, sides), 1) ** 2)

    @cached_property
    def needs(self) -> list[Need]:
        """Weights and data sets."""
        data = self.config.dataloader
        datasets = [data.train.dataset] if self.run.trains else []
        if self.run.dataset:
            datasets = [self.run.dataset]
        elif "test" in data:  # a mask generator is trained without being judged
            datasets.append(data.test.dataset)
        captions = self.run.tool == "make_region_text"
        made = [Need(f"{_WHAT[name]} of {job.folder}") for name, job in self.sources.items()]
        files = [need for name in ("model", "regions", "masks") for need in self._file_needs(name)]
        if folder := OmegaConf.select(self.config, _MASKS_FOLDER):
            files.append(file_need("saved masks", folder))
        weights = [] if "tower" in _overridden(self.run, self.sources) else weights_needs(self.config)
        return [*made, *weights, *(need for name in datasets for need in dataset_needs(name, captions)), *files]

    def _file_needs(self, name: str) -> list[Need]:
        file = OmegaConf.select(self.config, _KEYS[name])
        read = self.run.trains or name != "regions"
        return [file_need(_WHAT[name], file)] if file and read and name not in self.sources else []


_WHAT = {"tower": "weights: the tower", "model": "the model", "regions": "the regions", "masks": "the mask generator"}


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
            made = [_override(_KEYS[name], sources[name].product) for name in _overridden(run, sources)]
            overrides = [*run.overrides, *self.overrides, *self.settings, *made]
            config = load_config(file, overrides)
            digest = _digest(config, run, sources)
            kind = "" if run.tool == "train_net" else run.tool.rpartition("_")[2]
            name = "-".join(filter(None, (Path(run.config).stem, kind, digest[:10])))
            folder = self.output / "runs" / name
            config.train.output_dir = str(folder)
            overrides.append(_override("train.output_dir", folder))
            job = Job(run, config, folder, ROOT / f"tools/{run.tool}.py", (), digest, sources)
            self._jobs[run] = replace(job, arguments=self._arguments(job, file, overrides))
        return self._jobs[run]

    def _arguments(self, job: Job, file: str, overrides: Sequence[str]) -> tuple[str, ...]:
        run, config = job.run, ("--config-file", file)
        if run.tool == "train_net":
            return (*config, "--resume" if run.trains else "--eval-only", *self.options, *overrides)
        output = job.folder if run.tool == "probe_coherence" else job.product
        data = "--dataset", run.dataset, "--output", str(output)
        if run.tool == "make_proposals":
            return (*config, "--weights", str(job.sources["model"].product), *data, *overrides)
        clip, device = job.config.clip, ("--device", str(job.config.train.device))
        weights = "--name", str(clip.name), "--pretrained", str(clip.pretrained)
        if run.tool == "make_region_text":
            return ("--proposals", str(job.sources["regions"].product), *weights, *data, *device)
        towers = *weights, str(job.sources["tower"].product), "--labels", *COMPARED
        return (*towers, "--size", str(job.config.model.student_size), "--modes", *DENSE_MODES, *data, *device)

    def jobs(self, table: Table) -> list[Job]:
        """The different jobs of a table, each after those that it takes something from.

        Raises:
            InputError: when the overrides make rows the same that should differ.
        """
        jobs: list[Job] = []
        labels: dict[str, tuple[Run, str]] = {}
        for row in table.rows:
            job = self.job(row.run)
            run, label = labels.setdefault(job.digest, (row.run, row.label))
            if run != row.run:
                raise InputError(
                    f"{' '.join(self.overrides)}: rows '{label}' and '{row.label}' of table {table.name} would be the "
                    f"same run; leave out what the table varies"
                )
            jobs += _chain(job)
        return distinct([jobs])

    def _sources(self, run: Run) -> dict[str, Job]:
        # A model is used on the tower that it was trained on.
        tower = run.tower or (run.model.tower if run.model else None)
        wanted = {"tower": tower, "model": run.model, "regions": run.regions, "masks": run.masks}
        return {name: self.job(source) for name, source in wanted.items() if source}


def distinct(groups: Iterable[Iterable[Job]]) -> list[Job]:
    """The different jobs of several lists, in the order of their first appearance."""
    jobs: dict[str, Job] = {}
    for job in (job for group in groups for job in group):
        jobs.setdefault(job.digest, job)
    return list(jobs.values())


def _overridden(run: Run, sources: Iterable[str]) -> list[str]:
    """Of what a run takes from others, that which a config names; a tool has arguments of its own for the rest."""
    names = {"train_net": tuple(_KEYS), "make_proposals": ("tower",)}.get(run.tool, ())
    return [name for name in sources if name in names]


def _chain(job: Job) -> Iterator[Job]:
    """A job after all that it takes something from."""
    for source in job.sources.values():
        yield from _chain(source)
    yield job


def _digest(config: DictConfig, run: Run, sources: dict[str, Job]) -> str:
    """A hash of what decides the numbers: not of where they are written or computed."""
    config = config.copy()
    weights = OmegaConf.select(config, _KEYS["tower"])
    config.train.update(output_dir="", device="auto")
    given = _overridden(run, sources)
    for name, key in _KEYS.items():
        if name in given or (name == "tower" and "clip" in config):
            OmegaConf.update(config, key, "")
    for key in (*_KEYS.values(), _BACKBONE, _MASKS_FOLDER):  # what is in a file, not where it lies
        if file := OmegaConf.select(config, key):
            OmegaConf.update(config, key, _file_digest(file))
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if not run.trains:
        parts = {name: content["dataloader"][name] for name in ("test", "evaluator")}
        train = {name: content["train"][name] for name in ("seed", "precision")}
        content = {"clip": content.get("clip"), "model": content["model"], "train": train}
        content["dataloader"] = {run.tool: run.dataset} if run.dataset else parts
        if run.tool == "make_region_text":
            del content["model"]
    content["weights"] = sources["tower"].digest if "tower" in given else _file_digest(weights)
    if others := {name: job.digest for name, job in sources.items() if name != "tower" or name not in given}:
        content["sources"] = others
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_name).encode()).hexdigest()


def _file_digest(path: str | None) -> str:
    """The hash of a file's content, or of a folder's names, sizes and times; what is no file stays as it is."""
    if path and Path(path).is_file():
        stat = Path(path).stat()
        return _content_digest(path, stat.st_size, stat.st_mtime_ns)
    if path and Path(path).is_dir():
        stats = ((file.name, file.stat()) for file in sorted(Path(path).iterdir()))
        listed = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(repr(listed).encode()).hexdigest()
    return str(path)


@cache
def _content_digest(path: str, size: int, modified: int) -> str:
    """The hash of a file's content; the tower of fifty runs is read once."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def _override(key: str, value: Path | None) -> str:
    text = str(value)
    if not re.fullmatch(r"[\w./+-]+", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"
