"""The wheel in an environment of its own, used from a folder that has no configs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FILES = ("clipself_d2", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment that has the wheel, and all else from the one of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    source.mkdir()
    for name in FILES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    venv.create(environment, with_pip=False)
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(environment / "bin/python")]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    # The build backend runs in the new environment, hence sees setuptools by this line.
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "install", *options, str(source)], check=True)
    return environment / "bin/python"


def run(folder: Path, *command: str | Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def installed(python) -> Path:
    [folder] = python.parents[1].glob("lib/*/site-packages/clipself_d2")
    return folder


def test_it_has_every_file_of_the_package(installed):
    for root, folder in ((ROOT / "clipself_d2", installed), (ROOT / "configs", installed / "configs")):
        files = [file.relative_to(root) for file in root.rglob("*") if file.is_file() and file.suffix != ".pyc"]
        assert [file for file in files if not (folder / file).is_file()] == []


def test_its_weights_are_at_most_25_mebibytes(installed):
    weights = [file for file in installed.rglob("*") if file.suffix in (".safetensors", ".pth")]
    assert len(weights) == 5 and sum(file.stat().st_size for file in weights) <= 25 * 2**20


def test_the_command_draws_with_what_ships(python, tmp_path):
    """A config by name, and the CLIP of the package."""
    Image.new("RGB", (48, 64), "red").save(tmp_path / "a.png")
    out = run(tmp_path, python.with_name("clipself"), "predict", "a.png", "--words", "red star, lawn")
    assert out.endswith("written to output/predict\n")
    assert {file.name for file in (tmp_path / "output/predict").iterdir()} == {"a.jpg", "a.json"}


def test_the_clones_tools_run_on_it(python, tmp_path):
    assert "clipself demo" in run(tmp_path, python, ROOT / "tools/demo.py", "--help")
