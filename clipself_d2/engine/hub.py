"""A trained CLIP, detector or segmenter as a repository of the Hugging Face hub: written, pushed, read."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from omegaconf import DictConfig

from clipself_d2.clip.build import build_model, model_config
from clipself_d2.clip.checkpoint import read_card, read_checkpoint, save_tensors, write_atomically
from clipself_d2.clip.download import default_statistics, fetch, hub_answers
from clipself_d2.clip.siglip import is_siglip_name
from clipself_d2.engine.checkpoint import Checkpointer, read, write_state
from clipself_d2.engine.config import load_config
from clipself_d2.engine.resume import flatten
from clipself_d2.errors import InputError, RunError, first_line

_CLIP = "open_clip_model.safetensors"
_MODEL = "model.pth"


def write_repository(source: Path, folder: Path, repository: str, license: str) -> None:
    """Write the files of a repository: weights, configs, and a model card. No path of this machine is in them.

    Args:
        source: a distilled ``tower.safetensors`` with its card beside it; the output folder of a detector's or
            segmenter's training; or a config (its path or name) whose ``train.init_checkpoint`` has the weights.
        folder: is made.
        repository: ``OWNER/NAME``, which the model card shows.
        license: of the weights, as the hub names it (mit, apache-2.0).

    Raises:
        InputError: no card or no checkpoint; a config that names a file of this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    open_clip_alone = False
    if source.suffix != ".safetensors":
        facts = _write_run(source, folder, repository)
    else:
        facts = read_card(source.with_suffix(".json"))
        name = facts["model"]
        save_tensors(read_checkpoint(source), folder / _CLIP)
        config = _write_clip_config(name, folder, *default_statistics(name))
        open_clip_alone = not is_siglip_name(str(config["vision_cfg"].get("timm_model_name")))
    facts = {key: Path(value).name if _is_path(value) else value for key, value in facts.items()}
    card = _card(facts, repository, license, open_clip_alone)
    write_atomically(folder / "README.md", lambda file: file.write_text(card, "utf-8"))


def push(source: Path, folder: Path, repository: str, license: str) -> str:
    """Write a repository's files and upload them; returns its address.

    Raises:
        InputError: see `write_repository`; no access, or a name that cannot be one.
        RunError: the hub cannot be reached.
    """
    if not hub_answers():
        raise RunError(f"{HfApi().endpoint}: the hub cannot be reached: check the connection (or HF_ENDPOINT)")
    write_repository(source, folder, repository, license)
    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by clipself push")
    except (HfHubHTTPError, ValueError) as error:
        raise InputError(f"{repository}: cannot be pushed ({first_line(error)}): run 'hf auth login'") from None
    return str(address)


def read_run(source: str) -> tuple[DictConfig, str]:
    """The config and the checkpoint of a detector or segmenter in a repository. Nothing in it is executed.

    Args:
        source: ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.

    Raises:
        InputError: see `clip.download.fetch`; a config that calls other code than parts of models.
    """
    overrides = [f"clip.name='{source}'", "clip.pretrained=null", "train.device=auto"]
    return load_config(fetch(source, ["config.yaml"]), overrides, untrusted=True), fetch(source, [_MODEL])


def _write_run(source: Path, folder: Path, repository: str) -> dict[str, Any]:
    if source.is_dir():
        output, file, weights = source, source / "config.yaml", next(iter(Checkpointer(source).checkpoints()), None)
        config = load_config(file, untrusted=True) if file.is_file() else None
    else:
        file, config = source, load_config(source)
        output, weights = Path(config.train.output_dir), config.train.init_checkpoint
    if config is None or not weights or "clip" not in config:
        raise InputError(
            f"{source}: is no output folder of a trained detector or segmenter with a CLIP, nor the config of one with "
            "train.init_checkpoint"
        )
    name, pretrained = config.clip.name, config.clip.pretrained
    config.clip.name, config.clip.pretrained = f"hf-hub:{repository}", None  # the CLIP that is written here
    config.train.output_dir, config.train.init_checkpoint = "output/hub", ""
    values = flatten(config)
    for key, value in values.items():
        if _is_path(value) or (len(value) < 255 and Path(value).is_file()):
            raise InputError(f"{file}: {key}={value} is a file that others do not have: train without it")
    model, mean, std = build_model(name, pretrained)
    save_tensors(model.state_dict(), folder / _CLIP)
    _write_clip_config(name, folder, mean, std)
    state = {"model": read(Path(weights))["model"]}
    write_atomically(folder / _MODEL, partial(write_state, state))
    write_atomically(folder / "config.yaml", lambda file: LazyConfig.save(config, str(file)))
    results = output / "results.json"
    return {
        "model": name,
        "pretrained": pretrained,
        "architecture": values["model._target_"],
        "metrics": json.loads(results.read_text()) if results.is_file() else {},
    }


def _write_clip_config(name: str, folder: Path, mean: Any, std: Any) -> dict[str, Any]:
    config = model_config(name)
    if _is_path(tokenizer := config["text_cfg"].get("hf_tokenizer_name")):
        raise InputError(f"{tokenizer}: others do not have this tokenizer: name the CLIP by hf-hub:OWNER/NAME")
    content = {"model_cfg": config, "preprocess_cfg": {"mean": list(mean), "std": list(std)}}
    text = json.dumps(content, indent=2)
    write_atomically(folder / "open_clip_config.json", lambda file: file.write_text(text, "utf-8"))
    return config


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def _card(facts: dict[str, Any], repository: str, license: str, open_clip_alone: bool) -> str:
    tower = "architecture" not in facts
    what = "CLIP whose dense map was trained by CLIPSelf" if tower else f"clipself_d2 model, {facts['architecture']}"
    use = (
        f'from clipself_d2.clip import build_towers\n\nimage, text = build_towers("hf-hub:{repository}", None)\n'
        if tower
        else f"from clipself_d2.visualization.predictor import Predictor\n\n"
        f'predictor = Predictor.from_pretrained("hf-hub:{repository}", [["cat"], ["red car"]])\n'
    )
    alone = f"open_clip loads it too: `open_clip.create_model_and_transforms('hf-hub:{repository}')`."
    rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in sorted(facts.items()))
    return f"""---
license: {license}
library_name: {"open_clip" if tower else "clipself_d2"}
tags: [clip, clipself, open-vocabulary]
---

# {repository}

A {what}, made from {facts["model"]} ({facts.get("pretrained")}).

| | |
|---|---|
{rows}

## Use

```python
{use}```
{alone if open_clip_alone else ""}
"""
