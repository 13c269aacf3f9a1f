"""The extras of pyproject.toml: the documentation has each of them, and what is said to need none runs without."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pyproject.toml"]


def test_the_table_of_extras_has_each():
    table = (ROOT / "docs/install.md").read_text().partition("| extra | for |")[2].partition("\n\n")[0]
    named = [extra for row in table.splitlines()[2:] for extra in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(EXTRAS)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_extras_that_are_named_exist(page):
    named = re.findall(r"""(?:clipself_d2|["'. ]\.)\[([a-z,]+)\]""", page.read_text())
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)


def test_extras_that_errors_name_bring_the_package():
    calls = [
        ast.literal_eval(ast.Tuple(node.args[:2], ast.Load()))
        for file in (ROOT / "clipself_d2").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require" and isinstance(node.args[0], ast.Constant)
    ]
    assert len(calls) >= 7
    for module, extra in calls:
        assert canonicalize_name(module) in {canonicalize_name(Requirement(r).name) for r in EXTRAS[extra]}


def needed_by(names: Iterable[str]) -> set[str]:
    """The installed distributions of these names, and all that they require."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found and any(metadata.Distribution.discover(name=name)):
            found.add(name)
            required = map(Requirement, metadata.requires(name) or ())
            todo += [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def modules_of(distributions: Iterable[metadata.Distribution]) -> set[str]:
    files = (file for each in distributions for file in each.files or () if file.suffix in (".py", ".so"))
    return {file.parts[0].partition(".")[0] for file in files} - {""}


WITHOUT = """
import importlib.util, json, sys
from importlib.machinery import PathFinder

hidden = json.loads(sys.argv[1])

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
assert not any(map(importlib.util.find_spec, hidden))

import clipself_d2
from clipself_d2.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_distillation_needs_no_extra(tmp_path):
    """It runs where nothing can be imported but the dependencies, Detectron2 and what they require."""
    base = [Requirement(each).name for each in PROJECT["dependencies"]]
    # Any OpenCV will do, and any Detectron2, whose model zoo reads pkg_resources.
    kept = {*needed_by([*base, "opencv-python", "detectron2", "sal-detectron2", "setuptools"]), "clipself-d2"}
    groups: tuple[list[metadata.Distribution], ...] = ([], [])
    for each in metadata.distributions():
        groups[canonicalize_name(each.metadata["Name"]) in kept].append(each)
    hidden = sorted(modules_of(groups[False]) - modules_of(groups[True]))
    assert {"faster_coco_eval", "transformers", "onnx", "gradio", "supervision", "lvis", "pytest"} <= set(hidden)
    for number in range(2):
        Image.effect_noise((96, 96), 80).save(tmp_path / f"{number}.png")
    options = ["--config-file", "miniature/clipself_patches", "--images", str(tmp_path), "--output", f"{tmp_path}/run"]
    options += ["train.max_iter=2", "train.device=cpu", "dataloader.train.num_workers=0"]
    command = [sys.executable, "-c", WITHOUT, json.dumps(hidden), "distill", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/tower.json").read_text())["steps"] == 2
    assert (tmp_path / "run/tower.safetensors").is_file()
