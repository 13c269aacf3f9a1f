"""Every config file: that it loads, explains its values in even tables, and that its commands are true."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate

from clipself_d2.engine.config import load_config, train_settings

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in ROOT.glob("configs/*/*.py") if path.parent.name != "common")
ALL = sorted(ROOT.glob("configs/*/*.py"))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text()))


def commands(path: Path) -> list[str]:
    lines = docstring(path).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if "--config-file configs/" in line]


def overrides(command: str) -> list[str]:
    return [word for word in shlex.split(command) if re.match(r"[\w.]+=", word)]


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def test_there_are_few():
    assert len(ALL) <= 47


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_it_loads_and_names_its_command(path, tmp_path):
    cfg = load_config(path)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert load_config(tmp_path / "config.yaml", untrusted=True).keys() == cfg.keys()
    train_settings(cfg)
    assert cfg.train.output_dir == f"output/{path.stem}"
    assert isinstance(instantiate(cfg.lr_multiplier)(0), float)
    assert any(f"configs/{id_of(path)}" in command for command in commands(path))
    assert len(path.read_text().splitlines()) <= 100


@pytest.mark.parametrize("path", ALL, ids=id_of)
def test_its_tables_are_even(path):
    for table in re.findall(r"(?:^\|.*\|$\n?)+", docstring(path), flags=re.MULTILINE):
        assert len({(len(line), line.count("|")) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("command", [command for path in FILES for command in commands(path)])
def test_the_overrides_of_its_commands_are_keys(command, monkeypatch):
    if "NAME" in command:  # a placeholder
        command = command.replace("NAME", "ade20k_847_val_sem_seg")
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    load_config(words[words.index("--config-file") + 1], overrides(command))
