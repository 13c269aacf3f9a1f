"""The README's code runs, and the configs of its tables exist; test_docs.py has what holds of every page."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipself_d2.miniature import MODEL, WEIGHTS
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(WEIGHTS, "tower.safetensors")
    Path("tower.json").write_text(f'{{"model": "{MODEL}", "student_size": 128}}')
    Image.fromarray(render(scene_of("val", 0), 128)[0]).save("image.png")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(block, names)
    assert names["probabilities"].shape == (1, 3)
    assert names["features"].dense.shape == (1, 128, 16, 16)
    assert [tuple(b.shape) for b in names["features"].blocks] == [(1, 192, 16, 16)] * 3


@pytest.mark.parametrize("config", re.findall(r"`(clipself_\w+\.py)`", README))
def test_configs_exist(config):
    assert (ROOT / "configs/distillation" / config).is_file()
