"""The notebooks of docs/notebooks run on the miniature, as they are."""

import json
import shlex
from pathlib import Path

import pytest

from clipself_d2.cli import main

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("docs/notebooks/*.ipynb"))


def code(notebook: Path) -> list[list[str]]:
    """The lines of each cell of code."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_runs(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"run": lambda command: main(shlex.split(command)[1:])}
    for cell in code(notebook):
        source = "\n".join(f"assert run({line[1:]!r}) == 0" if line.startswith("!") else line for line in cell)
        exec(source, names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_is_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
