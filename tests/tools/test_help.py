"""`--help` of each command answers at once: it parses first, and imports the heavy libraries later."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for folder in ("tools", "datasets") for path in sorted((ROOT / folder).glob("*.py"))]
COMMANDS = [path for path in SCRIPTS if "__main__" in path.read_text()]
HEAVY = ("torch", "torchvision", "detectron2", "open_clip", "transformers", "matplotlib", "scipy", "sklearn", "timm")

CODE = """
import os, runpy, sys
sys.argv = [sys.argv[1], "--help"]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code or 0
print("imported:", *sorted(sys.modules.keys() & set({heavy!r})), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_imports_nothing_heavy(command):
    code = CODE.format(heavy=HEAVY)
    found = subprocess.run([sys.executable, "-c", code, str(command)], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert "usage:" in found.stdout
    assert found.stderr == "imported:\n"


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, clipself_d2; print(*sorted(sys.modules.keys() & set({HEAVY!r})))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout) == (0, "\n"), found.stderr
