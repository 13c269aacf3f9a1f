"""From a table's rows to commands, the folders that these write to, and what they need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from clipself_d2.clip.tower import DENSE_MODES
from clipself_d2.engine.config import load_config
from clipself_d2.errors import InputError
from reproduction.shared import COMPARED
from reproduction.tables import CHECKPOINT, MASK_GENERATOR, PAIRS_FILE, TOWER, Run, Table

ROOT = Path(__file__).resolve().parents[2]
PRODUCTS = {
    "make_proposals": "proposals.json",
    "make_region_text": "pairs.json",
    "probe_coherence": "coherence.png",
}
"""What other tools than `train_net` write."""
FILES = (CHECKPOINT, MASK_GENERATOR, PAIRS_FILE, "model.generator.folder", "model.backbone.bottom_up.weights")
"""Keys of configs that name a file or folder of the user's."""
EVALUATION_STEPS = 30
"""Training steps that an evaluation takes as long as, for the estimate of the time that is left."""


@dataclass(frozen=True)
class Job:
    """A planned run.

    Attributes:
        run: what is run.
        config: its whole config.
        folder: where it writes; its name ends with the digest.
        digest: a hash of what decides the numbers: equal runs of several tables are one.
        sources: the jobs whose products it uses, by key or option.
        arguments: of the tool.
    """

    run: Run
    config: DictConfig
    folder: Path
    digest: str
    sources: dict[str, Job]
    arguments: list[str] = field(default_factory=list)

    @property
    def tool(self) -> Path:
        """The script."""
        return ROOT / f"tools/{self.run.tool}.py"

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
    def has_results(self) -> bool:
        """Whether it writes `results.json`: no tool for regions does, and no training without an evaluator."""
        evaluated = self.run.tool == "train_net" and self.config.dataloader.get("evaluator")
        return bool(evaluated) or self.run.tool == "probe_coherence"

    @property
    def cost(self) -> float:
        """Work in a unit of its own: steps times pixels of the model's image."""
        steps = EVALUATION_STEPS + (self.config.train.max_iter if self.run.trains else 0)
        sides = (self.config.model.get(name) for name in ("student_size", "size", "short_edge"))
        return float(steps * next(filter(None, sides), 1) ** 2)

    @property
    def needs(self) -> dict[str, bool]:
        """The weights, data sets and files that no other run makes, and whether they are there."""
        needs = {} if TOWER in self.sources else _weights(self.config)
        train, test = (self.config.dataloader.get(name, {}).get("dataset") for name in ("train", "test"))
        for name in [self.run.dataset] if self.run.dataset else [train if self.run.trains else None, test]:
            needs |= _dataset(name, captions=self.run.tool == "make_region_text") if name else {}
        made = {str(source.product) for source in self.sources.values()}
        for key in FILES:
            file = OmegaConf.select(self.config, key)
            if file and file not in made and (self.run.trains or key != PAIRS_FILE):
                needs[f"{key}: {file}"] = Path(file).exists()
        return needs


class Planner:
    """Plans the runs of tables."""

    def __init__(
        self, output: str | Path, overrides: Sequence[str] = (), device: str | None = None, num_gpus: int = 1
    ) -> None:
        """Set what all runs share.

        Args:
            output: folder of all results; runs write to `runs/` in it.
            overrides: `key=value` for every run; they win over a row's own.
            device: "cuda", "cpu" or "auto"; None leaves it to the config.
            num_gpus: ranks of each run.
        """
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
            sources = {name: self.job(source) for name, source in run.uses}
            made = [_override(key, job.product) for key, job in sources.items() if not key.startswith("--")]
            file = os.path.relpath(ROOT / "configs" / run.config)
            overrides = [*run.overrides, *self.overrides, *made]
            config = load_config(file, overrides)
            digest = _digest(config, run, sources)
            kind = "" if run.tool == "train_net" else run.tool.rpartition("_")[2]
            folder = self.output / "runs" / "-".join(filter(None, (Path(run.config).stem, kind, digest[:10])))
            config.train.output_dir = str(folder)
            job = Job(run, config, folder, digest, sources)
            job.arguments.extend(self._arguments(job, file, [*overrides, _override("train.output_dir", folder)]))
            self._jobs[run] = job
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
        return distinct(used for row in table.rows for used in _chain(self.job(row.run)))

    def _arguments(self, job: Job, file: str, overrides: Sequence[str]) -> list[str]:
        run, config = job.run, ["--config-file", file]
        if run.tool == "train_net":
            return [*config, "--resume" if run.trains else "--eval-only", *self.options, *overrides]
        used = [word for option, source in job.sources.items() for word in (option, str(source.product))]
        output = job.folder if run.tool == "probe_coherence" else job.product
        data = ["--dataset", run.dataset, "--output", str(output)]
        if run.tool == "make_proposals":
            return [*config, *used, *data, *overrides]
        clip, device = job.config.clip, ["--device", str(job.config.train.device)]
        weights = ["--name", str(clip.name), "--pretrained", str(clip.pretrained)]
        if run.tool == "make_region_text":
            return [*used, *weights, *data, *device]
        size = ["--size", str(job.config.model.student_size), "--modes", *DENSE_MODES]
        return [*weights, used[1], "--labels", *COMPARED, *size, *data, *device]


def distinct(jobs: Iterable[Job]) -> list[Job]:
    """The different jobs, in the order of their first appearance."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(job.digest, job)
    return list(found.values())


def _chain(job: Job) -> Iterator[Job]:
    """A job after all that it uses."""
    for source in job.sources.values():
        yield from _chain(source)
    yield job


def check(jobs: Iterable[Job]) -> None:
    """Raise an InputError, one line, when something that the jobs need is not there."""
    if gaps := [what for job in jobs for what, there in job.needs.items() if not there]:
        more = f" (and {len(set(gaps)) - 1} more: see --dry-run)" if len(set(gaps)) > 1 else ""
        raise InputError(f"{gaps[0]}: not there; see datasets/README.md, and set DETECTRON2_DATASETS{more}")


def _dataset(name: str, captions: bool) -> dict[str, bool]:
    """The files and folders of a registered data set, those of its captions too if they are wanted."""
    if name not in DatasetCatalog:
        return {f"data set {name}, which is not registered": False}
    metadata = MetadataCatalog.get(name).as_dict()
    keys = ["json_file", "panoptic_json", "panoptic_root", "sem_seg_root", "image_root"]
    places = [metadata[key] for key in [*keys, *(["captions_json"] if captions else [])] if metadata.get(key)]
    if not places or metadata.get("made_at_first_use"):
        return {f"data set {name}, made at its first use": True}
    return {f"data set {name}: {place}": Path(place).exists() for place in places}


def _weights(config: DictConfig) -> dict[str, bool]:
    """The CLIP that a config starts from."""
    import open_clip  # slow to import

    if "clip" not in config:  # a network without CLIP, such as the region proposal network
        return {}
    name, weights = config.clip.name, config.clip.pretrained
    if weights in open_clip.list_pretrained_tags_by_model(name):
        return {f"weights: {name}, open_clip's '{weights}', downloaded at the first use": True}
    there = weights in (None, "random") or Path(str(weights)).is_file()
    return {f"weights: {name}, {weights or 'random'}": there}


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
