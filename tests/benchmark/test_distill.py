"""The benchmark of a distillation's step, on a tower that takes no time."""

import argparse
import json

import pytest
import torch

from clipself_d2.benchmark import cli, distill
from clipself_d2.errors import InputError, RunError


@pytest.fixture
def tiny(tiny_overrides):
    return ["--model", "tiny", "--size", "64", "--rounds", "1", *tiny_overrides]


def parsed(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    distill.add_arguments(parser)
    return parser.parse_args(arguments)


def test_it_measures_and_writes(tiny, tmp_path, capsys):
    assert cli.main(["distill", "--device", "cpu", "--output", str(tmp_path), *tiny]) == 0
    numbers = json.loads((tmp_path / "distill-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["reference"] / numbers["ours"])
    assert numbers["ratio_cached"] == pytest.approx(numbers["reference"] / numbers["cached"])
    assert set(numbers["parts"]) == {"data", "teacher", "student", "backward", "update", "rest"}
    assert numbers["agreement"]["gradient_cosine"] > 0.98
    assert set(numbers["peak_memory_bytes"]) == {"ours", "cached", "reference"}
    assert "cached" in capsys.readouterr().out


def test_operations_are_those_of_the_formula(tiny):
    """Six blocks of width 192 on 48 patches and a token, forward and backward; the embedding of patches is frozen."""
    cfg = distill.load_distillation_config(parsed(tiny))
    model = distill.build(cfg, "model")
    tokens, width, mlp, out = 1 + 6 * 8, 192, 768, model.tower.embed_dim
    linear = 2 * tokens * width * (4 * width + 2 * mlp)
    attention = 2 * 2 * tokens * tokens * width
    last = 2 * tokens * width * (2 * width + 2 * mlp)
    patches = 2 * (tokens - 1) * width * 3 * 8 * 8
    project = 2 * (tokens - 1) * width * out
    expected = 3 * (5 * (linear + attention) + last) + patches + 2 * project
    assert distill.student_flops(model, 1) == pytest.approx(expected, rel=1e-6)


def test_disagreement_is_an_error(tiny, monkeypatch):
    monkeypatch.setattr(distill.plain, "embed_crops", lambda tower, images, boxes: -torch.ones(1, tower.embed_dim))
    with pytest.raises(RunError, match="ours and the reference do not agree: losses"):
        distill.run(parsed(tiny))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--model", "BERT"], "--model BERT: use one of EVA02-B-16"), (["--batch", "0"], "--batch 0: must be at least 1")],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(InputError, match=text):
        distill.run(parsed(arguments))


def test_the_reference_leaves_everything_as_it_was(tiny, tmp_path):
    cfg = distill.load_distillation_config(parsed([*tiny, "train.activation_checkpointing=true"]))
    model = distill.build(cfg, "model").train()
    cfg.optimizer.params.model = model
    optimizer = distill.build(cfg, "optimizer")
    mapper = distill.DistillationMapper(distill.build(cfg.dataloader.train.mapper, "regions"))
    distill.ReferenceStep(model, optimizer, distill.write_photographs(tmp_path, 1), mapper)()
    assert model.tower.activation_checkpointing
    assert all(group["fused"] and not group["foreach"] for group in optimizer.param_groups)
