"""Tools are scripts, no package: how their tests get at them."""

import importlib.util
from pathlib import Path

import clipself_d2.miniature  # noqa: F401  (registers all data sets, before a test replaces the catalog for itself)

ROOT = Path(__file__).parents[2]


def load_tool(name: str, folder: str = "tools"):
    """The module of tools/NAME.py, or of another folder's."""
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
