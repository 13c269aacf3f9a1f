"""The tool at the command line: its table, its files, and one line for what is wrong."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import clipself_d2.miniature  # noqa: F401  (registers all data sets, before a test replaces the catalog for itself)
from clipself_d2.cli.coherence import main, parse_args
from clipself_d2.data import register_semantic

FLAT = ["--size", "32", "--num-workers", "0", "--device", "cpu"]


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """Three images whose left half is class 0, red, and whose right half is class 1, blue."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        labels = np.repeat(np.arange(64) // 32, 64).reshape(64, 64).T.astype(np.uint8)
        colors = np.array([[200 + number, 0, 0], [0, 0, 200 + number]], dtype=np.uint8)
        Image.fromarray(colors[labels]).save(tmp_path / f"images/{number}.png")
        Image.fromarray(labels).save(tmp_path / f"labels/{number}.png")
    register_semantic("halves", image_root="images", label_root="labels", synonyms=[["red"], ["blue"]])
    return tmp_path


def test_two_towers(halves, capsys):
    more = ["--pretrained", "miniature", "null", "--labels", "shipped", "blind", "--blocks", "1", "--modes", "full"]
    assert main(["--dataset", "halves", *FLAT, *more]) == 0
    content = json.loads((halves / "output/coherence/results.json").read_text())
    kinds = ["shipped, full", "shipped, block 1", "blind, full", "blind, block 1"]
    assert (content["dataset"], content["size"], content["images"], list(content["auc"])) == ("halves", 32, 3, kinds)
    assert all(set(areas) == {"class", "class_across"} for areas in content["auc"].values())
    assert content["auc"]["shipped, block 1"]["class"] > 90  # the patches are red or blue
    with Image.open(halves / "output/coherence/coherence.png") as figure:
        assert figure.width == 2 * 4 * 100
    said = capsys.readouterr()
    assert "3/3" in said.err
    assert "shipped, block 1" in said.out and f"{content['auc'][kinds[0]]['class']:.1f}" in said.out


def test_the_defaults_are_the_miniature_s(halves):
    assert main(["--dataset", "halves", "--limit", "2", "--output", "here", "--num-workers", "0"]) == 0
    content = json.loads((halves / "here/results.json").read_text())
    assert content["images"] == 2 and content["size"] == 128 and list(content["auc"]) == ["miniature, no_attn"]


def test_a_repository_brings_its_own_weights():
    assert parse_args(["--clip", "hf-hub:a/b"]).pretrained == ["null"]


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (["--dataset", "quarters"], "'quarters'"),
        (["--labels", "a", "b"], "--labels: 2 for 1 towers"),
        (["--pretrained", "null", "null"], "'null' is given twice"),
        (["--pretrained", "gone.safetensors"], "gone.safetensors"),
        (["--size", "33"], "size=33"),
        (["--blocks", "17"], "17"),
        (["--per-segment", "1"], "per_segment=1"),
        (["--modes", "best"], "best"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(halves, capsys, arguments, say):
    assert main(["--dataset", "halves", *FLAT, *arguments]) == 2
    said = capsys.readouterr().err.split("\r")[-1].strip("\n").splitlines()
    assert say in said[-1] and said[-1].startswith("error: ")
    assert not (halves / "output").exists()
