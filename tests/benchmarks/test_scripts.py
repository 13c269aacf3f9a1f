"""Each benchmark measures and writes, and stops where ours and the reference do not agree."""

import arguments
import data
import data_reference
import detect
import distill
import distill_steps
import evaluate
import evaluate_reference
import gpu
import harness
import memory
import models
import numpy as np
import panoptic
import panoptic_reference
import pytest
import reference
import scale
import streams
import teacher
import torch
import torch.nn.functional as F

from clipself_d2.miniature import MODEL
from clipself_d2.regions import letterbox
from tests.benchmarks.conftest import TINY_STEP

TINY_TOWER = ["--model", MODEL, "--size", "64", "--classes", "8"]
TINY_DATA = ["--student-size", "64", "--teacher-size", "32", "--batches", "1"]


def test_distill(run):
    numbers = run(distill, *TINY_STEP)
    seconds = numbers["seconds"]
    assert set(seconds) == set(numbers["peak_memory_bytes"]) == {"reference", "ours", "cached", "student"}
    assert numbers["ratio"]["ours"] == pytest.approx(seconds["reference"] / seconds["ours"])
    assert numbers["student_flops_per_second"] == pytest.approx(numbers["student_flops"] / seconds["student"])
    assert numbers["agreement"]["gradient_cosine"] > 0.98
    assert numbers["machine"]["torch"] == torch.__version__
    assert (numbers["settings"]["size"], numbers["settings"]["batch"], numbers["settings"]["rounds"]) == (64, 1, 1)


@pytest.fixture
def step(tmp_path):
    parser = arguments.argument_parser(None)
    arguments.add_recipe(parser, distill.CONFIG)
    args = parser.parse_args(["--device", "cpu", *TINY_STEP[2:], "train.activation_checkpointing=true"])
    return distill_steps.Step(harness.load_random(args, model__student_size=64), tmp_path, args)


def test_operations_are_those_of_the_formula(step):
    """Six blocks of width 192 on 48 patches and a token, forward and backward; the embedding of patches is frozen."""
    tokens, width, mlp, out = 1 + 6 * 8, 192, 768, step.model.tower.embed_dim
    linear = 2 * tokens * width * (4 * width + 2 * mlp)
    attention = 2 * 2 * tokens * tokens * width
    last = 2 * tokens * width * (2 * width + 2 * mlp)
    patches = 2 * (tokens - 1) * width * 3 * 8 * 8
    project = 2 * (tokens - 1) * width * out
    expected = 3 * (5 * (linear + attention) + last) + patches + 2 * project
    student = distill_steps.Student(step)
    resizing = harness.count_flops(lambda: letterbox(student.images, 64))
    assert student.flops() == pytest.approx(expected + resizing, rel=1e-6)


def test_the_reference_leaves_everything_as_it_was(step):
    distill_steps.ReferenceStep(step)()
    assert step.model.tower.activation_checkpointing
    assert all(group["fused"] and not group["foreach"] for group in step.optimizer.param_groups)


def test_teacher(run):
    numbers = run(teacher, "--model", MODEL)
    seconds = numbers["seconds"]
    assert numbers["ratio"]["cached"] == pytest.approx(seconds["reference"] / seconds["cached"])
    assert numbers["flops"]["cached"] == 0  # the teacher is not asked
    # Ours computes of the last block what the class token needs.
    assert 0.8 < numbers["flops"]["ours"] / numbers["flops"]["reference"] < 1
    assert numbers["agreement"]["lowest_cosine"] > 0.99


def test_evaluate(run):
    numbers = run(evaluate, *TINY_TOWER, "--batch", "2")
    assert numbers["ratio"]["ours"] == pytest.approx(numbers["seconds"]["reference"] / numbers["seconds"]["ours"])
    # Two squares of 64 patches, against the 48 patches that hold the image; ours counts the letterbox too.
    assert 1.5 < numbers["flops"]["reference"] / numbers["flops"]["ours"] < 3.2
    assert numbers["agreement"]["lowest_cosine"] > 0.98 and numbers["agreement"]["accuracy_difference"] < 1e-6


def test_samples_are_divided_into_segments():
    for sample in evaluate_reference.draw_samples(3, classes=10):
        assert torch.equal(sample["masks"].sum(dim=0), torch.ones(480, 640, dtype=torch.long))
        assert torch.equal(sample["isthing"], sample["classes"] < 5)
        for mask, box in zip(sample["masks"].numpy(), sample["boxes"].tensor.tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_detect(run, tiny_detector):
    numbers = run(detect, "--batch", 2, "--classes", 5, *tiny_detector)
    assert numbers["ratio_to_tower"] == pytest.approx(numbers["seconds"]["ours"] / numbers["seconds"]["tower"])
    assert numbers["flops"]["ours"] > numbers["flops"]["tower"] > 0


def test_panoptic(run):
    numbers = run(panoptic, *TINY_TOWER, "--masks", "30")
    assert numbers["ratio_to_tower"] == pytest.approx(numbers["seconds"]["ours"] / numbers["seconds"]["tower"])
    assert numbers["flops"]["ours"] >= numbers["flops"]["tower"] > 0
    assert numbers["agreement"]["lowest_cosine"] > 0.98 and numbers["agreement"]["differing_pixels"] < 1e-3


def test_models(run, few_scenes, capsys):
    numbers = run(models, "--models", "region-text", "zero-shot segmentation", "--profile")["models"]
    assert {name: set(each["seconds"]) for name, each in numbers.items()} == {
        "region-text": {"ours", "inference"},
        "zero-shot segmentation": {"ours"},
    }
    assert numbers["region-text"]["flops"]["ours"] > numbers["region-text"]["flops"]["inference"] > 0
    table = gpu.markdown({"every model": {"models": numbers}, "last": "left out: no time"}, 1.0)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == [
        "| region-text, miniature",
        "| zero-shot segmentation, miniature",
        "| last",
    ]
    assert models.main(["--device", "cpu", "--models", "F-VIT"]) == 2
    assert "--models: unknown F-VIT; choose from CLIPSelf, " in capsys.readouterr().err


def test_streams(run):
    numbers = run(streams, *TINY_STEP)
    assert set(numbers["seconds"]) == {"ours", "teacher", "student", "tower"}
    assert numbers["flops"]["ours"] == numbers["flops"]["teacher"] + numbers["flops"]["student"]


def test_masks_are_discs_that_overlap():
    predictions = panoptic_reference.draw_predictions(20, classes=4)
    assert torch.allclose(predictions.log_scores.exp().sum(dim=1), torch.ones(20))
    assert (predictions.masks > 0).sum(dim=0).max() > 1
    predictions.check(480, 640, num_classes=4)


def test_data(run):
    numbers = run(data, "--workers", "0", "1", "--reduce", *TINY_DATA)
    assert set(numbers["ratio"]) == {"0 workers", "1 workers"}
    speed = numbers["images_per_second"]
    assert numbers["ratio"]["0 workers"] == pytest.approx(speed["ours, 0 workers"] / speed["reference, 0 workers"])


def test_memory(run):
    rows = run(memory, "--sizes", "64", "128", "--batch", "1", *TINY_STEP[2:])["rows"]
    assert [(row["size"], row["checkpointing"]) for row in rows] == [(64, False), (64, True), (128, False), (128, True)]
    assert all(row["seconds"] > 0 for row in rows)


def test_scale(run):
    numbers = run(scale, *TINY_STEP)
    assert numbers["efficiency"] == numbers["seconds"]["1"] / numbers["seconds"]["2"] > 0


def random_embeddings(tower, images, boxes):
    return F.normalize(torch.randn(len(torch.cat(boxes)), tower.embed_dim), dim=-1)


@pytest.mark.parametrize(
    ("script", "owner", "name", "wrong", "arguments"),
    [
        (distill, reference, "embed_crops", lambda tower, *_: -torch.ones(1, tower.embed_dim), TINY_STEP),
        (teacher, reference, "embed_crops", random_embeddings, ["--model", MODEL]),
        (
            evaluate,
            evaluate_reference,
            "roi_align",
            lambda dense, boxes, *_: -torch.ones(len(boxes[0]), 128, 1, 1),
            TINY_TOWER,
        ),
        (panoptic, panoptic_reference.Reference, "merge", lambda *_: (torch.ones(480, 640), []), TINY_TOWER),
        (
            data,
            data_reference,
            "crop_and_resize",
            lambda _, boxes, size: torch.zeros(len(boxes), 3, size, size),
            TINY_DATA,
        ),
    ],
)
def test_disagreement_is_an_error(script, owner, name, wrong, arguments, monkeypatch, capsys):
    monkeypatch.setattr(owner, name, wrong)
    assert script.main(["--device", "cpu", *arguments]) == 1
    assert "ours and the reference do not agree" in capsys.readouterr().err
