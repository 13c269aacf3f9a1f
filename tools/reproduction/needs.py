"""What runs need that no other run makes: weights, data sets and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import open_clip
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from clipself_d2.errors import InputError
from reproduction.plan import Job
from reproduction.tables import CHECKPOINT, MASK_GENERATOR, PAIRS_FILE, TOWER

FILES = (CHECKPOINT, MASK_GENERATOR, PAIRS_FILE, "model.generator.folder", "model.backbone.bottom_up.weights")
"""Keys of configs that name a file or folder of the user's."""


def needs(job: Job) -> dict[str, bool]:
    """What a job needs, in words, and whether it is there."""
    found = {} if TOWER in job.sources or "clip" not in job.config else _weights(job.config.clip)
    train, test = (job.config.dataloader.get(name, {}).get("dataset") for name in ("train", "test"))
    for name in [job.run.dataset] if job.run.dataset else [train if job.run.trains else None, test]:
        found |= _dataset(name, captions=job.run.tool == "make_region_text") if name else {}
    for key in ["model.tower.guide.name", *(["model.correlation.guide.name"] if job.run.trains else [])]:
        if guide := OmegaConf.select(job.config, key):
            found[f"guide: timm's {guide}, downloaded at the first use"] = True
    made = {str(source.product) for source in job.sources.values()}
    for key in FILES:
        file = OmegaConf.select(job.config, key)
        if file and file not in made and (job.run.trains or key != PAIRS_FILE):
            found[f"{key}: {file}"] = Path(file).exists()
    return found


def check(jobs: Iterable[Job]) -> None:
    """Raise an InputError, one line, when something that the jobs need is not there."""
    if gaps := list(dict.fromkeys(what for job in jobs for what, there in needs(job).items() if not there)):
        more = f" (and {len(gaps) - 1} more: see --dry-run)" if len(gaps) > 1 else ""
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


def _weights(clip: DictConfig) -> dict[str, bool]:
    """The CLIP that a config starts from."""
    name, weights = clip.name, clip.pretrained
    if weights in open_clip.list_pretrained_tags_by_model(name):
        return {f"weights: {name}, open_clip's '{weights}', downloaded at the first use": True}
    there = weights is None or Path(str(weights)).is_file()
    return {f"weights: {name}, {weights or 'random weights'}": there}
