"""The benchmark of panoptic segmentation, on a tower that takes no time."""

import argparse
import json

import pytest
import torch

from clipself_d2.benchmark import cli, panoptic
from clipself_d2.errors import InputError, RunError
from clipself_d2.miniature import MODEL

TINY = ["--model", MODEL, "--size", "64", "--rounds", "1", "--classes", "8", "--masks", "30"]


def parsed(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    panoptic.add_arguments(parser)
    return parser.parse_args(arguments)


def test_it_measures_and_writes(tmp_path, capsys):
    assert cli.main(["panoptic", "--device", "cpu", "--output", str(tmp_path), *TINY]) == 0
    numbers = json.loads((tmp_path / "panoptic-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["reference"] / numbers["ours"])
    assert numbers["ratio_to_tower"] == pytest.approx(numbers["ours"] / numbers["tower"])
    assert numbers["flops"]["ours"] >= numbers["flops"]["tower"] > 0
    assert numbers["agreement"]["lowest_cosine"] > 0.98 and numbers["agreement"]["differing_pixels"] < 1e-3
    assert set(numbers["parts"]) > {"tower", "letterbox", "mask pooling", "scores", "merging"}
    assert "tower" in capsys.readouterr().out


def test_masks_are_discs_that_overlap():
    predictions = panoptic.draw_predictions(20, classes=4)
    assert torch.allclose(predictions.log_scores.exp().sum(dim=1), torch.ones(20))
    assert (predictions.masks > 0).sum(dim=0).max() > 1
    predictions.check(480, 640, num_classes=4)


def test_disagreement_is_an_error(monkeypatch):
    merge = panoptic.Reference.merge
    monkeypatch.setattr(panoptic.Reference, "merge", lambda *args: (merge(*args)[0] + 1, merge(*args)[1]))
    with pytest.raises(RunError, match=r"100\.00 % of the pixels differ"):
        panoptic.run(parsed(TINY))


@pytest.mark.parametrize("name", ["masks", "classes", "rounds"])
def test_wrong_arguments_are_named(name):
    with pytest.raises(InputError, match=f"--{name} 0: must be at least 1"):
        panoptic.run(parsed([*TINY, f"--{name}", "0"]))
