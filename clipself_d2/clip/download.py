"""Where weights and configs come from: a file, one of open_clip's tags, a repository of the hub, or a local folder."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import open_clip
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_cfg

from clipself_d2.clip.transformers_config import from_transformers_config
from clipself_d2.errors import InputError, first_line
from clipself_d2.files import REPOSITORIES

HUB_PREFIX, FOLDER_PREFIX = REPOSITORIES
_CONFIGS = ("open_clip_config.json", "config.json")
_CONFIG_ERRORS = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError)  # of a config that is none
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class AbsentFileError(InputError):
    """A repository has none of the files, or none of them is in the cache and the hub cannot be reached."""


class Weights(NamedTuple):
    """A file of weights, and what is known of the model that it belongs to.

    Attributes:
        path: of the file.
        statistics: RGB mean and standard deviation of its images, in 0..1 units; None if unknown.
        quick_gelu: whether its activation is QuickGELU; None if unknown.
    """

    path: str
    statistics: Statistics | None = None
    quick_gelu: bool | None = None


def find_weights(name: str, pretrained: str) -> Weights:
    """Find weights, and download them if they are not in the cache.

    Args:
        name: of the model, as open_clip knows it.
        pretrained: one of open_clip's tags for that model, one of `REPOSITORIES`, or the path of a file.

    Raises:
        InputError: neither of them; or a download that fails, in one line with what to do.
    """
    if pretrained.startswith(REPOSITORIES):
        return _from_repository(pretrained)
    tag = get_pretrained_cfg(name, pretrained)
    if tag:
        quick_gelu = tag.get("quick_gelu", False)
        return Weights(_download_tag(f"tag '{pretrained}' of '{name}'", tag), (tag["mean"], tag["std"]), quick_gelu)
    if not Path(pretrained).is_file():
        raise InputError(_unknown(name, pretrained))
    return Weights(pretrained)


def _download_tag(what: str, tag: dict[str, Any]) -> str:
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    files = (re.sub(r"\.(bin|pth)$", ".safetensors", file), file) if file else _FILES[:2]
    try:
        path = _download_hub(what, repository, files)
    except InputError as error:
        url = tag.get("url")
        if constants.HF_HUB_OFFLINE or not url:
            raise
        try:
            return download_pretrained_from_url(url)
        except Exception as other:  # urllib raises many kinds
            raise InputError(f"{error}; nor can it be downloaded from {url} ({first_line(other)})") from None
    return path


def fetch(source: str, files: Sequence[str]) -> str:
    """The path of the first of the files that a repository has, downloaded if need be.

    Raises:
        InputError: it has none of them, it does not exist, or the hub cannot be reached.
    """
    what = f"'{source}'"
    if source.startswith(HUB_PREFIX):
        return _download_hub(what, source.removeprefix(HUB_PREFIX), files)
    folder = _folder(source)
    if not folder.is_dir():
        raise InputError(f"{what}: no such folder")
    found = next((folder / file for file in files if (folder / file).is_file()), None)
    if found is None:
        raise AbsentFileError(f"{what}: the folder has no file {' or '.join(files)}")
    return str(found)


def read_model_config(source: str) -> dict[str, Any]:
    """The config of a repository's model in open_clip's form; an InputError as `fetch`, or for another config."""
    _, _, model = _read_config(source, _CONFIGS)
    if {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        return model
    raise InputError(_not_a_config(source))


def _read_config(source: str, files: Sequence[str]) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    """Whether the first of `files`, names of `_CONFIGS`, is open_clip's; its content; its model in open_clip's form."""
    path = fetch(source, files)
    try:
        config = _read_json(path)
        of_open_clip = Path(path).name == _CONFIGS[0]
        model = config["model_cfg"] if of_open_clip else from_transformers_config(config, _own_tokenizer(source))
        return of_open_clip, dict(config), dict(model)
    except _CONFIG_ERRORS:
        raise InputError(_not_a_config(source)) from None


def _own_tokenizer(source: str) -> str:
    """A repository's name for transformers, which reads its tokenizer there."""
    return source.removeprefix(HUB_PREFIX) if source.startswith(HUB_PREFIX) else str(_folder(source).resolve())


def _folder(source: str) -> Path:
    return Path(source.removeprefix(FOLDER_PREFIX)).expanduser()


def _not_a_config(source: str) -> str:
    return (
        f"'{source}': its model config is not one of open_clip or of transformers' CLIP or SigLIP (of one image size)"
    )


def default_statistics(name: str) -> Statistics:
    """RGB mean and standard deviation of a model's images, 0..1 units, for weights that do not bring their own.

    They are those of its repository, or those that all tags of its name share (SigLIP), or else OpenAI's.
    """
    if name.startswith(REPOSITORIES):
        return _read_settings(name, _CONFIGS)[0]
    tags = [get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    found = {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags}
    return found.pop() if len(found) == 1 else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def _from_repository(source: str) -> Weights:
    path = fetch(source, _FILES)
    of_open_clip = Path(path).name.startswith("open_clip")
    return Weights(path, *_read_settings(source, _CONFIGS[:1] if of_open_clip else _CONFIGS[1:]))


def _read_settings(source: str, files: Sequence[str]) -> tuple[Statistics, bool]:
    """The statistics of a repository's images, and whether its activation is QuickGELU; see `_read_config`."""
    of_open_clip, config, model = _read_config(source, files)
    try:
        images = config.get("preprocess_cfg", {}) if of_open_clip else _image_processor(source)
        siglip = (0.5, 0.5, 0.5) if not of_open_clip and config["model_type"] == "siglip" else None
        mean = images.get("mean", siglip or open_clip.OPENAI_DATASET_MEAN)
        std = images.get("std", siglip or open_clip.OPENAI_DATASET_STD)
        return (tuple(map(float, mean)), tuple(map(float, std))), model.get("quick_gelu", False)
    except _CONFIG_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_not_a_config(source)) from None


def _image_processor(source: str) -> dict[str, Any]:
    """transformers' statistics of a repository's images; a processor's file has them inside."""
    try:
        path = fetch(source, ["preprocessor_config.json", "processor_config.json"])
    except AbsentFileError:
        return {}
    config = _read_json(path)
    settings = config.get("image_processor", config)
    return {key.removeprefix("image_"): value for key, value in settings.items()}


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _download_hub(what: str, repository: str, files: Sequence[str]) -> str:
    """The first of the files that the repository has, from the cache or the hub."""
    advice = "or give the path of a file that you have"
    absent: Exception | None = None
    reachable = constants.HF_HUB_OFFLINE or hub_answers()
    for file in files:
        try:
            known = try_to_load_from_cache(repository, file)
            # where the hub cannot be reached for one file, only the cache is asked for the others
            cached = not reachable or isinstance(absent, LocalEntryNotFoundError)
            path = hf_hub_download(repository, file, local_files_only=cached)
        except EntryNotFoundError as error:
            absent = absent or error
        except GatedRepoError:
            page = f"{constants.ENDPOINT}/{repository}"
            raise InputError(f"{what}: gated: accept its terms at {page} and run 'hf auth login', {advice}") from None
        except RepositoryNotFoundError:
            raise InputError(
                f"{what}: the hub has no public {repository}: check the name, run 'hf auth login' if it is private, "
                f"{advice}"
            ) from None
        except Exception as error:  # of the network, the disk, or a name that cannot be one
            raise InputError(f"{what}: cannot be downloaded ({first_line(error)}): start again, {advice}") from None
        else:
            if path != known:
                _check_hash(what, path)
            return path
    if not isinstance(absent, LocalEntryNotFoundError):
        raise AbsentFileError(f"{what}: {repository} has no file {' or '.join(files)}: {advice.removeprefix('or ')}")
    where = f"{constants.HF_HUB_CACHE} (HF_HUB_CACHE)"
    if constants.HF_HUB_OFFLINE:
        raise AbsentFileError(
            f"{what}: HF_HUB_OFFLINE is set and it is not in {where}: download it once online, {advice}"
        )
    hub = f"{constants.ENDPOINT} (HF_ENDPOINT)"
    raise AbsentFileError(f"{what}: not in {where}, and {hub} cannot be reached: check the connection, {advice}")


def hub_answers() -> bool:
    """Whether the hub's server takes a connection; its client alone would try again for half a minute."""
    url = urlsplit(constants.ENDPOINT)
    if url.scheme in getproxies() and not proxy_bypass(url.hostname or ""):
        return True  # the proxy is asked
    try:
        with socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def offline_unless_hub_answers() -> Iterator[None]:
    """Let transformers, which retries as long, take its cache at once where the hub cannot be reached."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check_hash(what: str, path: str) -> None:
    """Compare a large file that was downloaded with its SHA-256, after which the hub's cache names it."""
    content = Path(path).resolve()
    if re.fullmatch("[0-9a-f]{64}", content.name):
        digest = hashlib.sha256()
        with content.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != content.name:
            content.unlink()
            raise InputError(f"{what}: arrived damaged, its SHA-256 is not that of the hub: start again")


def _unknown(name: str, pretrained: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    near = difflib.get_close_matches(pretrained, tags, n=3, cutoff=0.4)
    question = f"did you mean {', '.join(near)}? " if near else ""
    known = f"the tags of '{name}' are {', '.join(tags)}" if tags else f"'{name}' has no tags"
    return (
        f"pretrained '{pretrained}' is neither a file nor a tag: {question}{known}; {HUB_PREFIX}OWNER/NAME names a "
        f"repository of the hub, {FOLDER_PREFIX}FOLDER a local one, and null (None in Python) stands for random weights"
    )
