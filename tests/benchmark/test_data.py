"""The benchmark of loading, on two small photographs."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipself_d2.benchmark import cli, data
from clipself_d2.errors import InputError, RunError

SMALL = ["--student-size", "64", "--teacher-size", "32", "--batches", "1", "--rounds", "1"]


def parsed(arguments):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).resize((320, 240)).save(tmp_path / f"{number}.jpg")
    return tmp_path


def test_it_measures_and_writes(folder, tmp_path, capsys):
    arguments = ["--images", str(folder), "--workers", "1", *SMALL, "--output", str(tmp_path / "out")]
    assert cli.main(["data", "--device", "cpu", *arguments]) == 0
    numbers = json.loads((tmp_path / "out/data-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["reference"] / numbers["ours"])
    for path in ("ours", "reference"):
        assert set(numbers["images_per_second"][path]) == set(numbers["waiting"][path]) == {"0", "1"}
        assert numbers["images_per_second"][path]["0"] == pytest.approx(2 / numbers[path])
    # A float image and 20 crops against a photograph; and the boxes.
    assert numbers["bytes_per_sample"]["reference"] == 4 * 3 * (64**2 + 20 * 32**2) + 20 * 5 * 4
    assert 3 * 320 * 240 < numbers["bytes_per_sample"]["ours"] <= 3 * 320 * 240 + 2 * 20 * 16
    assert "MiB a sample" in capsys.readouterr().out


def test_photographs_are_made_where_no_folder_is_given():
    numbers = data.run(parsed(["--workers", "0", "--reduce", *SMALL]))
    assert numbers["agreement"]["grey_levels"] < data.CROP_TOLERANCE
    assert numbers["bytes_per_sample"]["ours"] < 3 * 480 * 640  # decoded at a reduced scale


@pytest.mark.parametrize(
    ("batch", "step", "workers", "expected"), [(1, 3, 0, 0.25), (1, 3, 2, 0), (4, 1, 2, 0.75), (1, 1, 4, 0)]
)
def test_waiting(batch, step, workers, expected):
    assert data.waiting(batch, step, workers) == expected


def test_disagreement_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(data, "crop_and_resize", lambda image, boxes, size: torch.zeros(len(boxes), 3, size, size))
    with pytest.raises(RunError, match="crops differ by"):
        data.run(parsed(["--images", str(folder), *SMALL]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--teacher-size", "0"], "--teacher-size 0: must"),
        (["--workers", "-1"], "--workers and --step-seconds"),
        (["--images", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(InputError, match=text):
        data.run(parsed([*SMALL, *arguments]))
