"""docs/panoptic.md is true: its code names what there is, its configs exist."""

import ast
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.config import instantiate

from clipself_d2.engine.config import load_config
from clipself_d2.engine.main import parse_args
from clipself_d2.vocabulary import read_vocabulary

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/panoptic.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line
]


@pytest.fixture(autouse=True)
def _in_odise_with_the_single_files(monkeypatch):
    """The single files are beside the code, and ODISE is installed."""
    monkeypatch.syspath_prepend(str(ROOT / "clipself_d2/panoptic/standalone"))
    modules = [ModuleType(name) for name in ("odise", "odise.data", "odise.data.build")]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    modules[-1].get_openseg_labels = lambda dataset, prompt_engineered=False: [[dataset, "sky"]]


@pytest.mark.parametrize("block", CODE)
def test_what_the_code_imports_is_there(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("block", [block for block in CODE if "L(ODISEMaskClassifier)" in block])
def test_the_config_lines_for_odise_make_a_head_of_known_arguments(block):
    names: dict = {}
    exec(block, names)
    head = names["clip_head"]
    assert head._target_ is names["ODISEMaskClassifier"]
    assert set(head) - {"_target_"} <= set(inspect.signature(names["ODISEMaskClassifier"].__init__).parameters)
    assert instantiate(head.train_labels) == [["coco_panoptic", "sky"]]


def test_the_lines_that_write_class_names_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(next(block for block in CODE if "sorted(names)" in block), {})
    assert "ade20k_847" in read_vocabulary("names.json")[1]
    assert ("sky",) in read_vocabulary("names.json")


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train_net" in c])
def test_training_commands_parse(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = parse_args(shlex.split(command)[2:])
    load_config(args.config_file, args.opts)
    assert args.eval_only


def test_the_configs_that_it_names_exist():
    for stem in re.findall(r"^\| `(\w+_)\*`", PAGE, flags=re.MULTILINE):
        assert len(list((ROOT / "configs/panoptic").glob(f"{stem}*.py"))) >= 1


def test_the_rooms_that_it_names_exist():
    for file in re.findall(r"`panoptic/(\w+)\.py`", PAGE):
        assert (ROOT / f"clipself_d2/panoptic/{file}.py").is_file()
