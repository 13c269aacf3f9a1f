"""The README and the pages are true: the README's code runs, commands parse, links and files exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render
from clipself_d2.training.config import load_config
from clipself_d2.training.run import parse_args

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))])


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(start: str) -> list[str]:
    lines = "\n".join(blocks("sh", PAGES)).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith(start)]


def test_python_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(WEIGHTS, "tower.safetensors")
    Path("tower.json").write_text(f'{{"model": "{MODEL}", "student_size": 128}}')
    Image.fromarray(render(scene_of("val", 0), 128)[0]).save("photograph.png")
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["probabilities"].shape == (1, 3)
    assert names["features"].dense.shape == (1, 128, 16, 16)
    assert [tuple(b.shape) for b in names["features"].blocks] == [(1, 192, 16, 16)] * 3


@pytest.mark.parametrize("command", commands("python tools/train_net.py"))
def test_training_commands_parse(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = parse_args(shlex.split(command)[2:])
    load_config(args.config_file, args.opts)


@pytest.mark.parametrize("command", [c for c in commands("python tools/") if "--config-file" in c])
def test_commands_name_configs_that_load(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    assert Path(words[1]).is_file()
    load_config(words[words.index("--config-file") + 1], [word for word in words if re.match(r"[\w.]+=", word)])


@pytest.mark.parametrize("command", [c for c in commands("python tools/") if "--config-file" not in c])
def test_the_other_tools_are_there(command):
    assert (ROOT / shlex.split(command)[1]).is_file()


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert link.startswith("https://") or (ROOT / link).exists()


@pytest.mark.parametrize("config", re.findall(r"`(clipself_\w+\.py)`", PAGES))
def test_configs_exist(config):
    assert (ROOT / "configs/distillation" / config).is_file()
