"""The tool at the command line: the file that it writes, its recalls, and one line for what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

import clipself_d2.miniature  # noqa: F401  (registers all data sets, before a test replaces the catalog for itself)
from clipself_d2.cli.proposals import main
from clipself_d2.engine.config import load_config
from clipself_d2.regions.proposals import load_proposals

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/detection/rpn_r50_fpn_ovcoco.py")
SMALL = ["model.backbone.bottom_up.weights=null", "model.short_edge=64", "train.device=cpu"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A registered data set of three images with boxes, a copy without boxes, an empty one; and the images' folder."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    rng = np.random.default_rng(0)
    records = []
    for number in (4, 5, 6):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file)
        box = {"bbox": [8, 8, 40, 32], "bbox_mode": BoxMode.XYXY_ABS, "category_id": number % 2, "iscrowd": 0}
        records.append({"file_name": str(file), "image_id": number, "height": 48, "width": 64, "annotations": [box]})
    bare = [{k: v for k, v in record.items() if k != "annotations"} for record in records]
    for name, content in {"toy_boxes": records, "toy_images": bare, "toy_empty": []}.items():
        DatasetCatalog.register(name, lambda content=content: content)
    MetadataCatalog.get("toy_boxes").set(thing_classes=["cat", "dog"], novel_classes=["dog"])
    return tmp_path


def run(output, *more, dataset="toy_images", weights="null") -> int:
    arguments = ["--config-file", CONFIG, "--dataset", dataset, "--output", str(output), "--num-workers", "0"]
    return main([*arguments, "--weights", weights, *SMALL, *more])


def test_the_file_and_the_recalls(data, capsys):
    assert run(data / "p.json", "--top", "20", dataset="toy_boxes") == 0
    loaded = load_proposals(data / "p.json", {4, 5, 6})
    assert {number: len(boxes) for number, boxes in loaded.items()} == {4: 20, 5: 20, 6: 20}
    info = json.loads((data / "p.json").read_text())["info"]
    assert (info["top"], info["nms"], info["data"]) == (20, 0.7, "toy_boxes")
    out = capsys.readouterr().out
    assert "wrote 60 proposals of 3 images" in out
    lines = [line for line in out.splitlines() if line.startswith("recall of ")]
    assert "AR@100_novel" in lines[0] and "AR@300" in lines[0] and "AR@20_base" in lines[1]


def test_without_boxes_there_is_no_recall(data, capsys):
    (data / "5.png").write_bytes(b"no image")
    assert run(data / "p.json") == 0
    out = capsys.readouterr().out
    assert "recall" not in out and "1 images could not be read" in out
    assert sorted(load_proposals(data / "p.json")) == [4, 6]


def test_the_newest_checkpoint_is_taken(data, capsys):
    assert run(data / "p.json", f"train.output_dir={data}/run", weights="") == 2
    assert "holds no checkpoint; train first, or pass --weights" in capsys.readouterr().err
    model = instantiate(load_config(CONFIG, SMALL).model)
    (data / "run").mkdir()
    torch.save({"model": model.state_dict(), "iteration": 3}, data / "run/checkpoint_0000003.pth")
    assert run(data / "a.json", f"train.output_dir={data}/run", weights="") == 0
    assert run(data / "b.json", weights=str(data / "run/checkpoint_0000003.pth")) == 0
    first, second = (json.loads((data / name).read_text())["annotations"] for name in ("a.json", "b.json"))
    assert first == second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dataset", "toy_nothing"], "'toy_nothing' is not registered"),
        (["--dataset", "toy_empty"], "is empty"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--weights", "other.pth"], "other.pth: cannot be loaded"),
        (["--output", "there.json"], "there.json: exists already"),
        (["--top", "0"], "top=0"),
        (["--nms", "2"], "nms=2.0"),
        (["--min-score", "1"], "none of 3 images has a proposal"),
        (["model.short_egde=3"], "did you mean 'short_edge'?"),
        (["--fast"], "unrecognized arguments"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(data, monkeypatch, capsys, change, message):
    monkeypatch.chdir(data)
    (data / "there.json").write_text("{}")
    torch.save({"model": {"weight": torch.zeros(3)}, "iteration": 1}, data / "other.pth")
    assert run(data / "p.json", *change) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "random weights" not in line and "it/s" not in line
    ]
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not (data / "p.json").exists() and (data / "there.json").read_text() == "{}"


def test_a_config_whose_model_cannot_propose_is_said(data, capsys):
    config = str(ROOT / "configs/distillation/clipself_eva02_b16_coco_patches.py")
    assert main(["--config-file", config, "--dataset", "toy_images", "--output", str(data / "p.json")]) == 2
    assert capsys.readouterr().err.startswith("error: CLIPSelf makes no region proposals: use a config of F-ViT")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "clipself train" in capsys.readouterr().out
