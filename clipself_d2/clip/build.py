"""From a model's name and its weights to the two towers."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from clipself_d2.clip.attention_pool import CoCaTower, TimmPoolTower
from clipself_d2.clip.checkpoint import load_checkpoint, write_atomically
from clipself_d2.clip.download import default_statistics, find_weights, offline_unless_hub_answers, read_model_config
from clipself_d2.clip.formats import uses_quick_gelu
from clipself_d2.clip.resnet import ResNetTower
from clipself_d2.clip.siglip import register_siglip
from clipself_d2.clip.text import TextTower
from clipself_d2.clip.timm_vit import TimmTower
from clipself_d2.clip.tower import ImageTower
from clipself_d2.clip.transformer import TransformerTower
from clipself_d2.clip.vit import ViTTower
from clipself_d2.errors import InputError, first_line, require
from clipself_d2.files import REPOSITORIES

# To add a family, write its `ImageTower` in a file of its own and name it here.
IMAGE_TOWERS: tuple[Any, ...] = (ViTTower, CoCaTower, TimmTower, TimmPoolTower, ResNetTower)

_SHIPPED = frozenset(open_clip.list_models())
_SMALL_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
_BUILD_ERRORS = (TypeError, ValueError, KeyError, AssertionError, RuntimeError)


def build_towers(name: str, pretrained: str | None) -> tuple[ImageTower, TextTower]:
    """Build both towers of a CLIP model on the CPU, in fp32 and in evaluation mode.

    Args:
        name: a model that open_clip knows (``EVA02-B-16``, ``ViT-B-16-quickgelu``); the path of a JSON config in
            open_clip's form, which is then registered with open_clip under the file's name; or ``hf-hub:OWNER/NAME`` or
            ``local-dir:FOLDER``, a repository of open_clip or of transformers' `CLIPModel` or `SiglipModel`.
        pretrained: one of open_clip's tags, ``hf-hub:OWNER/NAME`` (both are downloaded at the first use),
            ``local-dir:FOLDER``, or the path of a checkpoint in any published format. None: random weights; the
            repository's own where the name is one.

    Raises:
        InputError: an unknown name, tag or path (the message names the nearest known ones); a bad config; weights of
            another model; an image tower of a family without dense embeddings.
    """
    image_tower_shape(name)
    model, mean, std = build_model(name, pretrained)
    return _image_tower(name, model.visual, mean, std), _text_tower(name, model)


def build_image_tower(name: str, pretrained: str | None, guide: nn.Module | None = None) -> ImageTower:
    """The image tower alone; see `build_towers`. The checkpoint must still fit the whole model.

    Args:
        name: see `build_towers`.
        pretrained: see `build_towers`.
        guide: of the dense mode "proxyclip", such as `distillation.TimmGuide`: maps images, B x 3 x H x W in 0..1, to
            features, B x C x gh x gw, which are resampled to the tower's grid.

    Raises:
        InputError: see `build_towers`; a guide that is no module, or for a family without that mode.
    """
    image_tower_shape(name)
    model, mean, std = build_model(name, pretrained)
    tower = _image_tower(name, model.visual, mean, std)
    if guide is not None:
        if not isinstance(guide, nn.Module):
            made = f"{{_target_: clipself_d2.distillation.TimmGuide, name: {guide}, size: 448}}"
            raise InputError(f"guide={guide}: must be a module, such as guide='{made}'")
        if not isinstance(tower, TransformerTower) or "proxyclip" not in tower.dense_modes:
            modes = ", ".join(tower.dense_modes)
            raise InputError(f"guide: the image tower of '{name}' has no dense mode that reads one, only {modes}")
        tower.hold_frozen("guide", guide)
    return tower


def build_text_tower(name: str, pretrained: str | None) -> TextTower:
    """The text tower alone; see `build_towers`. The checkpoint must still fit the whole model."""
    return _text_tower(name, build_model(name, pretrained)[0])


def build_model(
    name: str, pretrained: str | None, resize_positions: bool = False
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """The whole open_clip model, and the RGB mean and standard deviation (0..1 units) that its images need.

    A tag or a repository brings its own pixel statistics and activation; a file uses `default_statistics` and the
    activation of the model named. Files of OpenAI's or of CLIPSelf's OpenAI weights therefore need a ``-quickgelu``
    name (checked for OpenAI's own files).
    """
    pretrained = name if pretrained is None and name.startswith(REPOSITORIES) else pretrained
    named, name = name, _register(name)
    text = open_clip.get_model_config(name)["text_cfg"]
    if reads_hub(text):
        require("transformers", "panoptic", f"the text tower of model '{named}'")
    weights = None if pretrained is None else find_weights(name, pretrained)
    try:
        with _quiet(), _text_files(named, text.get("hf_model_name")):
            model = open_clip.create_model(
                name,
                pretrained_image=False,
                pretrained_text=False,
                force_quick_gelu=bool(weights and weights.quick_gelu),
            )
    except _BUILD_ERRORS as error:
        raise InputError(f"model '{name}': open_clip cannot build it from its config ({error})") from None
    if weights is None:
        return model.eval(), *default_statistics(named)
    if weights.quick_gelu is False and uses_quick_gelu(model):
        raise InputError(f"pretrained '{pretrained}' has no QuickGELU: choose the model's name without '-quickgelu'")
    load_checkpoint(model, weights.path, resize_positions)
    return model.eval(), *(weights.statistics or default_statistics(named))


def build_tokenizer(name: str) -> Any:
    """open_clip's tokenizer of a model; see `build_towers` for the name and errors."""
    repository = model_config(name)["text_cfg"].get("hf_tokenizer_name")
    try:
        with _text_files(name, repository):
            return open_clip.get_tokenizer(_register(name))
    except InputError:
        raise
    except Exception as error:  # transformers raises many kinds
        raise InputError(
            f"model '{name}': its text tower needs the tokenizer of '{repository}', which transformers cannot read "
            f"({first_line(error)})"
        ) from None


def reads_hub(text_config: Mapping[str, Any]) -> bool:
    """Whether a text tower needs a tokenizer or a config of the Hugging Face hub, by its part of `model_config`."""
    return not {"hf_model_name", "hf_tokenizer_name"}.isdisjoint(text_config)


def model_config(name: str) -> dict[str, Any]:
    """The config of a model in open_clip's form; see `build_towers` for the name and errors."""
    config: dict[str, Any] = open_clip.get_model_config(_register(name))
    return config


def name_for_card(name: str, weights: Path) -> str:
    """A model's name for the card of its weights, without folders of this machine.

    A JSON config is written beside the weights, ``NAME.safetensors``, as ``NAME_model.json``; `read_card` finds it.
    """
    if name.startswith(REPOSITORIES[1]):
        return REPOSITORIES[1] + Path(name.removeprefix(REPOSITORIES[1])).name
    if not name.endswith(".json"):
        return name
    text = json.dumps(model_config(name), indent=2)
    path = weights.with_name(f"{weights.stem}_model.json")
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    return path.name


def image_tower_shape(name: str) -> ImageTower:
    """An image tower on the meta device: its sizes, in a fraction of a second and without memory for its weights.

    Raises:
        InputError: see `build_towers`; above all an image tower without dense embeddings, before anything is built or
            downloaded.
    """
    config = model_config(name)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    try:
        visual = _visual_shape(json.dumps([config["embed_dim"], vision]))
    except _BUILD_ERRORS as error:
        raise InputError(f"model '{name}': open_clip cannot build it from its config ({error})") from None
    return _image_tower(name, visual, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


@functools.lru_cache(maxsize=256)
def _visual_shape(config: str) -> nn.Module:
    """The image tower of a config, with the smallest text tower: many names share it."""
    embed_dim, vision = json.loads(config)
    with torch.device("meta"), _NoInitialization():
        visual: nn.Module = open_clip.CLIP(embed_dim, vision, _SMALL_TEXT).visual
    return visual


class _NoInitialization(TorchFunctionMode):
    """Skip all operations in place: tensors on the meta device have no values, and drawing them takes most time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.startswith("_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _image_tower(name: str, visual: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageTower:
    for family in IMAGE_TOWERS:
        if family.matches(visual):
            return family(visual, mean, std).eval()
    network = type(getattr(visual, "trunk", visual)).__name__
    raise InputError(
        f"model '{name}': its image tower, {network}, has no dense map: use a ViT with a class token, a mean over its "
        f"patches or an attention pool, or a CLIP ResNet (`clipself towers` lists them)"
    )


def _text_tower(name: str, model: Any) -> TextTower:
    return TextTower(model, build_tokenizer(name), model_config(name)["embed_dim"]).eval()


@contextmanager
def _text_files(name: str, repository: str | None) -> Iterator[None]:
    """One line where transformers cannot get what a text tower needs of the hub, at once."""
    if repository is None:
        yield
        return
    try:
        with offline_unless_hub_answers():
            yield
    except OSError:
        raise InputError(
            f"model '{name}': its text tower needs '{repository}' of the hub, which is not in the cache and cannot be "
            f"downloaded: check the connection, or download it once online"
        ) from None


def _register(name: str) -> str:
    """The name under which open_clip knows the model; a JSON config is registered first."""
    if name.startswith(REPOSITORIES):
        return _register_repository(name)
    if name.endswith(".json"):
        return _register_config(Path(name))
    if name not in open_clip.list_models():
        known = {model.lower(): model for model in open_clip.list_models()}
        near = [known[key] for key in difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)]
        question = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(
            f"model '{name}' is unknown to open_clip: {question}or give the path of a JSON config, "
            f"hf-hub:OWNER/NAME or local-dir:FOLDER"
        )
    return name


def _register_repository(source: str) -> str:
    """The config of a repository under a name of its content: its own could mean another of open_clip's tokenizers."""
    text = json.dumps(config := read_model_config(source), sort_keys=True)
    name = f"repository-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if name not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.json")
            path.write_text(text)
            _add_config(path, config)
    return name


def _register_config(path: Path) -> str:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read this model config ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: this model config is not JSON ({error})") from None
    if not isinstance(config, dict) or (missing := {"embed_dim", "vision_cfg", "text_cfg"} - config.keys()):
        fields = ", ".join(sorted(missing)) if isinstance(config, dict) else "every field"
        raise InputError(f"{path}: this model config lacks {fields}")
    if path.stem in _SHIPPED:
        raise InputError(f"{path}: open_clip has its own model of this name, rename the file")
    _add_config(path, config)
    return path.stem


def _add_config(path: Path, config: Mapping[str, Any]) -> None:
    """Let open_clip know a config, and timm the SigLIP in it."""
    if isinstance(config["vision_cfg"], dict):
        register_siglip(str(config["vision_cfg"].get("timm_model_name")))
    open_clip.add_model_config(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's warning that the model is random: the weights are loaded afterwards, or none are wanted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
