"""The benchmark of region classification, on a tower that takes no time."""

import argparse
import json

import numpy as np
import pytest
import torch

from clipself_d2.benchmark import cli, evaluate
from clipself_d2.errors import InputError, RunError
from clipself_d2.miniature import MODEL

TINY = ["--model", MODEL, "--size", "64", "--rounds", "1", "--classes", "8"]


def parsed(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    evaluate.add_arguments(parser)
    return parser.parse_args(arguments)


def test_it_measures_and_writes(tmp_path, capsys):
    assert cli.main(["evaluate", "--device", "cpu", "--output", str(tmp_path), *TINY, "--batch", "2"]) == 0
    numbers = json.loads((tmp_path / "evaluate-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["reference"] / numbers["ours"])
    # Two squares of 64 patches, against the 48 patches that hold the photograph; ours counts the letterbox too.
    assert 1.5 < numbers["flops"]["reference"] / numbers["flops"]["ours"] < 3.2
    assert numbers["agreement"]["lowest_cosine"] > 0.98 and numbers["agreement"]["accuracy_difference"] < 1e-6
    assert set(numbers["parts"]) > {"tower", "letterbox", "masks to the grid", "RoIAlign", "mask pooling"}
    assert 2 <= numbers["settings"]["regions"] <= 60
    assert "lowest cosine" in capsys.readouterr().out


def test_samples_are_divided_into_segments():
    for sample in evaluate.draw_samples(3, classes=10):
        assert torch.equal(sample["masks"].sum(dim=0), torch.ones(480, 640, dtype=torch.long))
        assert torch.equal(sample["isthing"], sample["classes"] < 5)
        for mask, box in zip(sample["masks"].numpy(), sample["boxes"].tensor.tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_disagreement_is_an_error(monkeypatch):
    monkeypatch.setattr(
        evaluate, "roi_align", lambda dense, boxes, *_: -torch.ones(len(boxes[0]), dense.shape[1], 1, 1)
    )
    with pytest.raises(RunError, match="ours and the reference do not agree: cosine of embeddings -"):
        evaluate.run(parsed(TINY))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--classes", "5"], "--classes 5: must be at least 6"),
        (["--size", "65"], "--size=65: not a multiple of the tower's stride 8"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(InputError, match=text):
        evaluate.run(parsed([*TINY, *arguments]))
