"""Repositories that `clipself push` writes, through the stand-in of the hub."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from detectron2.config import LazyConfig
from huggingface_hub import constants

from clipself_d2 import miniature
from clipself_d2.cli import main
from clipself_d2.clip import build_towers
from clipself_d2.clip.checkpoint import read_checkpoint
from clipself_d2.engine.config import load_config
from clipself_d2.engine.hub import read_run
from clipself_d2.errors import InputError
from clipself_d2.regions import RegionClassifier
from clipself_d2.visualization.predictor import Predictor
from tests.clip.hub import point_at, serve


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served", tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        yield hub


@pytest.fixture
def tower(tmp_path):
    """The shipped tower, as a run exports it."""
    path = tmp_path / "tower.safetensors"
    shutil.copy(miniature.CLIPSELF_WEIGHTS, path)
    card = {"model": miniature.MODEL, "pretrained": "/home/me/clip.pt", "alpha": 0.7, "data": "ov_shapes"}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


@pytest.fixture
def run(tmp_path):
    """The output folder of a run that trained the shipped detector."""
    folder = tmp_path / "run"
    folder.mkdir()
    LazyConfig.save(load_config("miniature/detector"), str(folder / "config.yaml"))
    shutil.copy(miniature.DETECTOR, folder / "checkpoint_0000001.pth")
    (folder / "results.json").write_text('{"bbox": {"AP50_novel": 12.5}}')
    return folder


def push(*arguments):
    return main(["push", *map(str, arguments), "--license", "mit"])


def test_a_tower_comes_back_from_the_hub(hub, tower):
    assert push(tower, "someone/clip") == 0
    image, text = build_towers("hf-hub:someone/clip", None)
    expected = read_checkpoint(tower)
    assert all(torch.equal(value, expected[key]) for key, value in {**image.state_dict(), **text.state_dict()}.items())
    card = (hub.folder / "someone/clip/README.md").read_text()
    assert "license: mit" in card and miniature.MODEL in card and "0.7" in card and "hf-hub:someone/clip" in card
    assert "clip.pt" in card and "/home/me" not in card
    assert RegionClassifier.from_pretrained("hf-hub:someone/clip", ["star"], templates="photo").vocabulary.names == [
        "star"
    ]


def test_open_clip_loads_it_alone(tower, tmp_path):
    assert push(tower, "someone/clip", "--dry-run", tmp_path / "folder") == 0
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/folder")
    images = torch.randn(1, 3, 64, 64)
    expected = build_towers(miniature.MODEL, str(tower))[0].image_embeddings(images)
    torch.testing.assert_close(model.eval().encode_image(images), expected, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_of_this_machine_is_not_pushed(tower, tmp_path, capsys):
    config = dict(open_clip.get_model_config(miniature.MODEL))
    config["text_cfg"] = {**config["text_cfg"], "hf_tokenizer_name": "/home/me/tokenizer"}
    (tmp_path / "mine.json").write_text(json.dumps(config))
    tower.with_suffix(".json").write_text(json.dumps({"model": str(tmp_path / "mine.json")}))
    assert push(tower, "someone/clip", "--dry-run", tmp_path / "folder") == 2
    assert "/home/me/tokenizer: others do not have this tokenizer" in capsys.readouterr().err


def test_a_detector_comes_back_from_the_hub_and_from_a_folder(hub, run, tmp_path):
    assert push(run, "someone/detector") == 0
    words = [["red star"], ["lawn"]]
    predictor = Predictor.from_pretrained("hf-hub:someone/detector", words)
    expected = Predictor(load_config("miniature/detector"), words).model.state_dict()
    state = predictor.model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key].cpu()) for key in state)
    folder = hub.folder / "someone/detector"
    assert Predictor.from_pretrained(f"local-dir:{folder}", words).names == ["red star", "lawn"]
    assert "12.5" in (folder / "README.md").read_text()
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        assert str(Path(miniature.WEIGHTS).parent).encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["miniature/semantic_segmenter", "miniature/panoptic_segmenter"])
def test_a_config_with_weights_comes_back_from_the_hub(hub, tmp_path, monkeypatch, name):
    """The panoptic segmenter with its mask generator's weights."""
    monkeypatch.chdir(tmp_path)
    repository, words = f"someone/{Path(name).name}", [["red star"], ["lawn"]]
    results = Path(f"output/{Path(name).name}/results.json")
    results.parent.mkdir(parents=True)
    results.write_text('{"sem_seg": {"mIoU": 12.5}}')
    assert push(name, repository) == 0
    assert "12.5" in (hub.folder / repository / "README.md").read_text()
    predictor = Predictor.from_pretrained(f"hf-hub:{repository}", words)
    expected = Predictor(load_config(name), words)
    state, model = predictor.model.state_dict(), expected.model.state_dict()
    assert state.keys() == model.keys() and all(torch.equal(state[key], model[key]) for key in state)
    image = torch.randint(256, (3, 96, 64), dtype=torch.uint8)
    ids, segments = predictor(image)["panoptic_seg"]
    assert torch.equal(ids, expected(image)["panoptic_seg"][0]) and segments == expected(image)["panoptic_seg"][1]


def test_a_file_of_this_machine_is_not_pushed(run, tmp_path, monkeypatch, capsys):
    """The mask generator of the miniature is a file of the working directory."""
    monkeypatch.chdir(tmp_path)
    config = load_config("miniature/panoptic")
    config.model.generator.model.backbone.tower.update(name="${clip.name}", pretrained="${clip.pretrained}")
    LazyConfig.save(config, str(run / "config.yaml"))
    masks = Path(config.model.generator.checkpoint)
    masks.parent.mkdir(parents=True)
    masks.touch()
    assert push(run, "someone/panoptic", "--dry-run", tmp_path / "folder") == 2
    assert f"model.generator.checkpoint={masks} is a file that others do not have" in capsys.readouterr().err


def test_a_config_of_the_hub_calls_no_other_code(run, tmp_path):
    assert push(run, "someone/detector", "--dry-run", tmp_path / "folder") == 0
    config = tmp_path / "folder/config.yaml"
    config.write_text(config.read_text().replace("clipself_d2.detection", "os.system #", 1))
    with pytest.raises(InputError, match="is not accepted with --untrusted-config"):
        read_run(f"local-dir:{tmp_path}/folder")


def test_what_cannot_be_pushed_is_one_line(hub, tower, run, tmp_path, monkeypatch, capsys):
    tower.with_suffix(".json").unlink()
    (run / "checkpoint_0000001.pth").unlink()
    for source, reason in (
        (tower, "the card of the tower cannot be read"),
        (run, "is no output folder"),
        (tmp_path / "none", "no such config file"),
        ("miniature/fvit", "is no output folder"),
    ):
        assert push(source, "someone/clip") == 2
        assert reason in capsys.readouterr().err
    hub.gated.add("someone/theirs")
    assert push(Path(miniature.CLIPSELF_WEIGHTS), "someone/theirs") == 2
    assert "someone/theirs: cannot be pushed (" in capsys.readouterr().err
    assert push(tower, "clip") == 2
    assert "give OWNER/NAME" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert push(tower, "someone/clip") == 1
    assert "cannot be reached" in capsys.readouterr().err
