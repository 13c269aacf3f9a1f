"""The benchmark of the teacher, on the miniature's tower."""

import argparse
import json

import pytest
import torch
import torch.nn.functional as F

from clipself_d2.benchmark import cli, teacher
from clipself_d2.errors import InputError, RunError
from clipself_d2.miniature import MODEL
from clipself_d2.regions import GridRegions

SMALL = ["--model", MODEL, "--rounds", "1", "--crops", "5"]


def parsed(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    teacher.add_arguments(parser)
    return parser.parse_args(arguments)


def test_it_measures_and_writes(tmp_path, capsys):
    assert cli.main(["teacher", "--device", "cpu", "--output", str(tmp_path), *SMALL]) == 0
    numbers = json.loads((tmp_path / "teacher-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["reference"] / numbers["ours"])
    assert numbers["ratio_cached"] == pytest.approx(numbers["reference"] / numbers["cached"])
    assert set(numbers["parts"]) == {"crops", "tower", "rest"}
    assert all(seconds > 0 for seconds in numbers["parts"].values())
    assert numbers["flops"]["cached"] == 0  # the teacher is not asked
    # Ours computes of the last block what the class token needs.
    assert 0.8 < numbers["flops"]["ours"] / numbers["flops"]["reference"] < 1
    assert numbers["agreement"]["lowest_cosine"] > 0.99
    assert numbers["settings"] == {
        "size": 64, "image": [480, 640], "model": MODEL, "batch": 2, "crops": 5, "precision": "bf16", "rounds": 1,
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("reference", "cached", "ours", "crops", "lowest centred cosine"))


def test_crops_are_cells_of_grids():
    images, boxes, _ = teacher.draw(2, 30)
    assert [tuple(image.shape) for image in images] == [(3, 480, 640)] * 2
    cells = {tuple(box) for box in GridRegions().all_crops(0, 480, 640)[0].tolist()}
    for each in boxes:
        assert len(each) == 30 and {tuple(box) for box in each.tolist()} <= cells
    assert images[0].float().std() > 20


def test_agreement_is_the_lowest_cosine():
    reference = F.normalize(torch.randn(6, 8), dim=1)
    turned = reference.clone()
    turned[2] = F.normalize(reference[2] + 0.01 * torch.randn(8), dim=0)
    found = teacher.agree({"reference": reference, "ours": turned, "cached": reference})
    assert found["lowest_cosine"] == pytest.approx(float(turned[2] @ reference[2]), abs=1e-6)
    assert 0.99 < found["lowest_centred_cosine"] < 1


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_disagreement_is_an_error(offset):
    """Also where all embeddings are nearly the same, as those of a tower with random weights."""
    reference = F.normalize(torch.randn(6, 8) + offset, dim=1)
    with pytest.raises(RunError, match="ours and the reference do not agree: cosine of embeddings"):
        teacher.agree({"reference": reference, "ours": reference, "cached": reference.roll(1, 0)})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--crops", "1"], "--crops 1: must be at least 2"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--model", "BERT"], "BERT"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(InputError, match=text):
        teacher.run(parsed([*SMALL, *arguments]))
