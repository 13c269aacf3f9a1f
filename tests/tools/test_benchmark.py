"""The command line: what is written, and exit codes; with a tower of two blocks."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from clipself_d2.benchmark.cli import main
from tests.detection.tiny import CONFIGS

ROOT = Path(__file__).parents[2]
SHAPE = "shape.blocks=[0,1,1,2] shape.block_dim=32 shape.embed_dim=16 shape.stride=8 shape.strides=[2,4,8,16,32]"
HEADS = "shape.region_strides=[2,4,8,16] model.backbone.pyramid.channels=8 model.rpn.channels=8"
SMALL = [*SHAPE.split(), *HEADS.split(), "model.roi_heads.box_head.channels=8", "model.rpn.post_nms_topk=[9,9]"]


def benchmark(*args) -> int:
    return main([str(arg) for arg in args])


@pytest.fixture
def small(tmp_path):
    """Arguments that put a tiny tower into the config."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIGS["tiny-vit-8"]))
    return ["--device", "cpu", "--size", 64, "--rounds", 2, "--output", tmp_path / "out", f"clip.name={path}", *SMALL]


def test_detect(small, tmp_path, capsys):
    assert benchmark("detect", *small, "--batch", 2, "--classes", 5) == 0
    numbers = json.loads((tmp_path / "out/detect-cpu.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["reference"])
    assert numbers["ours"] > numbers["reference"] > 0
    assert numbers["flops"]["ours"] > numbers["flops"]["reference"] > 0
    assert 0 < numbers["peak_fraction"] < 1
    assert set(numbers["peak_memory_bytes"]) == {"ours", "reference"}
    parts = ["tower", "pyramid", "RPN", "NMS of proposals", "RoIAlign", "box head", "scores and NMS", "rest"]
    assert list(numbers["parts"]) == parts
    assert all(seconds > 0 for seconds in numbers["parts"].values())
    settings = numbers["settings"]
    assert (settings["size"], settings["batch"], settings["classes"], settings["image"]) == (64, 2, 5, [480, 640])
    assert numbers["machine"]["torch"] == torch.__version__
    shown = capsys.readouterr().out
    assert all(part in shown for part in parts)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "error: the following arguments are required: NAME"),
        (["dance"], "error: argument NAME: invalid choice: 'dance'"),
        (["detect", "--model", "ViT"], "error: --model ViT: use one of EVA02-B-16, EVA02-L-14-336"),
        (["detect", "--rounds", 0], "error: --rounds 0: must be at least 1"),
        (["detect", "--size", 0], "error: model.size=0: not a multiple of the tower's stride"),
        (["detect", "--device", "tpu"], "error: argument --device: invalid choice"),
        (["detect", "model.sise=3"], "error: model.sise: unknown config key 'sise'; did you mean 'size'?"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(args, message, capsys):
    device = ["--device", "cpu"] if args and "--device" not in args and args[0] == "detect" else []
    assert benchmark(*args, *device) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert len(captured.err.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(capsys):
    assert benchmark("detect", "--device", "cuda") == 2
    assert "no usable GPU" in capsys.readouterr().err


def test_the_tool_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "detect", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools/benchmark.py"), run_name="__main__")
    assert caught.value.code == 0
    assert "--precision" in capsys.readouterr().out
