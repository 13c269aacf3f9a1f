"""What a command reads that no other run makes: weights, data sets, files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Need:
    """Something that a command reads.

    Attributes:
        what: it is, and where.
        missing: how to mend that it is not there; "" when it is there or is made or fetched by the command.
    """

    what: str
    missing: str = ""


def missing(needs: Iterable[Need]) -> list[str]:
    """What is needed and not there, each once, with the mend."""
    return list(dict.fromkeys(f"{need.what}: {need.missing}" for need in needs if need.missing))


def dataset_needs(name: str, captions: bool = False) -> list[Need]:
    """The files and folders of a registered data set, those with its captions too if they are wanted."""
    if name not in DatasetCatalog:
        return [Need(f"data set {name}", "not registered; see datasets/README.md for the names")]
    metadata = MetadataCatalog.get(name).as_dict()
    keys = ["json_file", "panoptic_json", "panoptic_root", "sem_seg_root", "image_root"]
    if captions:
        keys.append("captions_json")
    places = [metadata[key] for key in keys if metadata.get(key)]
    if not places or metadata.get("made_at_first_use"):
        return [Need(f"data set {name}: made at its first use")]
    return [file_need(f"data set {name}", place) for place in places]


def file_need(what: str, path: str) -> Need:
    """A file or folder of the user's."""
    hint = "not there; see datasets/README.md, and set DETECTRON2_DATASETS if it lies elsewhere"
    return Need(f"{what}: {path}", "" if Path(path).exists() else hint)


def weights_needs(config: DictConfig) -> list[Need]:
    """The weights that a config starts from."""
    import open_clip  # slow to import

    if "clip" not in config:  # a network of its own, such as the region proposal network's
        file = OmegaConf.select(config, "model.backbone.bottom_up.weights")
        return [file_need("weights", file)] if file not in (None, "random") else []
    name, weights = config.clip.name, config.clip.pretrained
    if weights in (None, "random"):
        return [Need(f"weights: {name}, random")]
    if weights in open_clip.list_pretrained_tags_by_model(name):
        return [Need(f"weights: {name}, open_clip's '{weights}', downloaded at the first use")]
    there = Path(str(weights)).is_file()
    return [Need(f"weights: {name}, {weights}", "" if there else "no such file, and no tag of open_clip's")]
