"""The demo, with a handful of scenes and two steps."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipself_d2.miniature import dataset
from clipself_d2.miniature.demo import TASKS, run_demo
from tests.tools.loading import load_tool

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/miniature/clipself_patches.py"
SHORT = [
    "train.max_iter=2",
    "train.device=cpu",
    "dataloader.train.num_workers=0",
    "dataloader.train.total_batch_size=2",
]


@pytest.fixture
def demo_tool():
    return load_tool("demo")


def test_results_images_and_report(small_world, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(small_world))
    for _ in range(2):  # a second time replaces the first
        results = run_demo(CONFIG, tmp_path / "demo", SHORT)
    written = json.loads((tmp_path / "demo/results.json").read_text())
    assert written == results
    for moment in ("before", "after"):
        assert set(results[moment]) == set(TASKS)
        assert all(0 <= value <= 100 for task in results[moment].values() for value in task.values())
    assert results["seconds"]["total"] > 0
    assert (tmp_path / "demo/kmeans.png").is_file()
    page = (tmp_path / "demo/report.html").read_text()
    HTMLParser().feed(page)
    assert f"{results['before']['boxes']['top1']:.1f}" in page


@pytest.mark.parametrize("arguments", [["--nothing"], ["train.max_itre=3"]])
def test_wrong_arguments_are_one_line(demo_tool, arguments, capsys, tmp_path):
    assert demo_tool.main(["--output", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_scenes_of_the_demo_are_held_out():
    assert dataset.scene_of("train", 0) != dataset.scene_of("val", 0)
