"""Tools are scripts, no package: how their tests get at them."""

import importlib.util
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str):
    """The module of tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main_of(name: str):
    """A fixture: the `main` of tools/NAME.py."""

    @pytest.fixture(scope="module", name="main")
    def load():
        return load_tool(name).main

    return load
