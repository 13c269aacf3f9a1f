"""The benchmark of a GPU, on the CPU with a tiny step."""

import json

import gpu
import pytest

from tests.benchmarks.conftest import TINY_STEP


@pytest.fixture
def few(monkeypatch):
    tiny = gpu.Row("a tiny step", "distill", tuple(TINY_STEP))
    monkeypatch.setattr(gpu, "ROWS", (tiny, gpu.Row("one more", "distill", ("--size", "3"))))
    monkeypatch.setattr(gpu, "check_models", lambda device: {"CLIPSelf": {"loss": 1e-6}})


def run(folder, *arguments):
    code = gpu.main(["--device", "cpu", "--rounds", "1", "--output", str(folder), *arguments])
    return code, json.loads((folder / "gpu-cpu.json").read_text()), (folder / "gpu-cpu.md").read_text()


def test_rows_kernels_and_failures_are_reported(few, tmp_path):
    code, numbers, table = run(tmp_path)
    assert code == 0 and numbers["peak_flops_per_second"] > 0
    row = numbers["rows"]["a tiny step"]
    assert len(row["kernels"]) == 10 and 0 < sum(row["kernels"].values()) <= 1
    seconds = {name: f"{1000 * value:.1f}" for name, value in row["seconds"].items()}
    assert f"| a tiny step | {seconds['ours']} | reference {seconds['reference']}, cached {seconds['cached']}," in table
    assert numbers["rows"]["one more"] == "failed, see above" and "| one more | failed, see above |" in table


def test_a_row_that_breaks_leaves_the_others(few, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: None)
    code, numbers, _ = run(tmp_path)
    assert code == 0 and set(numbers["rows"].values()) == {"failed, see above"}


def test_rows_without_time_are_named(few, tmp_path):
    _, numbers, table = run(tmp_path / "new", "--minutes", "0")
    assert set(numbers["rows"].values()) == {"left out: no time"}
    assert "| a tiny step | left out: no time |" in table


def test_disagreement_is_an_error_after_the_report(few, tmp_path, monkeypatch, capsys):
    figures = {"F-ViT": {"loss": 0.5}, "CAT-Seg": {"labels": float("nan")}}
    monkeypatch.setattr(gpu, "check_models", lambda device: figures)
    code, numbers, _ = run(tmp_path, "--minutes", "0")
    assert code == 1 and numbers["agreement"]["F-ViT"]["loss"] == 0.5
    assert "F-ViT: loss 0.5, CAT-Seg: labels nan" in capsys.readouterr().err
