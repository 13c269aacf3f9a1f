"""The single files for other projects: what they import, and that a second process computes what this package does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import clipself_d2.panoptic.standalone
from clipself_d2.clip import build_towers
from clipself_d2.errors import InputError
from clipself_d2.panoptic.plugin_file import save_plugin_file
from clipself_d2.panoptic.plugins import TowerCLIP
from clipself_d2.panoptic.saved import read_predictions
from clipself_d2.panoptic.standalone.clipself_dense import ExportedCLIP
from clipself_d2.panoptic.standalone.clipself_plugin import fuse
from clipself_d2.regions import dense_features, fuse_scores, letterbox_images
from clipself_d2.vocabulary import Vocabulary
from tests.clip.conftest import CONFIGS, TRANSFORMERS, randomize
from tests.second_device import CUDA, SecondDevice
from tests.tools.loading import load_tool

FOLDER = Path(clipself_d2.panoptic.standalone.__file__).parent
FILES = sorted(FOLDER.glob("clipself_*.py"))
CLASSES = [["cat", "kitty"], ["dog"], ["grass", "lawn"], ["sky"]]
NAMES = [name for synonyms in CLASSES for name in synonyms]
SEEN = torch.tensor([True, False, True, False])
SIZE = 64


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def towers(tmp_path):
    """Both towers of a tiny CLIP, with random weights."""

    def draw(family):
        config = tmp_path / f"{family}.json"
        config.write_text(json.dumps(CONFIGS[family]))
        built = build_towers(str(config), None)
        for tower in built:
            randomize(tower)
        return built

    return draw


def image_and_masks():
    """A smooth image and the logits of five masks, of which the last is empty."""
    image = F.interpolate(torch.rand(1, 3, 5, 7) * 255, (50, 80), mode="bicubic").clamp(0, 255).byte()
    masks = F.interpolate(5 * torch.randn(1, 5, 4, 6), (25, 40), mode="bilinear")
    masks[0, -1] = -5
    return image, masks


def test_there_is_a_file_for_each_use():
    assert [path.stem for path in FILES] == ["clipself_dense", "clipself_masks", "clipself_plugin"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_of_python_3_8_and_stands_alone(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module.split(".")[0])
    # odise: its own list of labels, where the file is used inside ODISE
    assert modules - sys.stdlib_module_names <= {"torch", "numpy", "odise"}
    assert "from __future__ import annotations" in path.read_text()
    assert {"match", "TypeAlias"}.isdisjoint(type(node).__name__ for node in ast.walk(tree))


def test_a_host_process_computes_what_this_package_does(towers, tmp_path):
    inputs, folders = {}, {}
    for family in TRANSFORMERS:
        folders[family] = tmp_path / f"{family}.host"
        folders[family].mkdir()
        inputs[family] = (*towers(family), *image_and_masks(), torch.randn(1, 5, 5))
        tower, text_tower, image, masks, logits = inputs[family]
        save_plugin_file(folders[family] / "plugin.safetensors", tower, text_tower, NAMES, "photo")
        arrays = {"images": image, "masks": masks, "logits": logits, "seen": SEEN}
        arrays = {name: value.numpy() for name, value in arrays.items()}
        classes = np.array([",".join(synonyms) for synonyms in CLASSES])
        np.savez(folders[family] / "inputs.npz", classes=classes, size=SIZE, **arrays)
    script = Path(__file__).with_name("host_process.py")
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, FOLDER, *folders.values()], check=True, env=environment, timeout=300)
    for family, folder in folders.items():
        compare(folder, *inputs[family])


def compare(folder, tower, text_tower, image, masks, logits):
    """What a host process wrote into a folder, against the towers and functions of this package."""
    with np.load(folder / "outputs.npz") as outputs:
        found = {name: torch.from_numpy(array) for name, array in outputs.items()}
    with torch.no_grad():
        dense = dense_features(tower, letterbox_images(tower, list(image), SIZE)).dense
    rows, columns = found["dense"].shape[2:]
    assert (rows, columns) == (5, 8)
    torch.testing.assert_close(found["dense"], dense[..., :rows, :columns], atol=1e-5, rtol=0)
    clip = TowerCLIP(tower, text_tower, SIZE, "photo")
    embeddings, valid = clip.embed_masks(image, masks)
    torch.testing.assert_close(found["embeddings"], embeddings, atol=1e-5, rtol=0)
    assert torch.equal(found["valid"], valid)
    assert valid.tolist() == [[True] * 4 + [False]]
    clip_logits = clip.logits(embeddings, CLASSES)
    torch.testing.assert_close(found["logits"], clip_logits, atol=1e-4, rtol=0)

    log_scores = logits.log_softmax(-1)
    expected = fuse_scores(log_scores, clip_logits.log_softmax(-1), SEEN, 0.4, 0.8, "fcclip")
    expected[:, 4] = log_scores[:, 4].exp()
    torch.testing.assert_close(found["fcclip"].exp(), expected, atol=1e-5, rtol=0)
    no_void = F.pad(logits[..., :-1].log_softmax(-1), (0, 1), value=-torch.inf)
    expected = fuse_scores(no_void, clip_logits.log_softmax(-1), SEEN, 0.35, 0.65, "odise")
    expected[:, 4] = no_void[:, 4].exp()
    torch.testing.assert_close(found["odise"].softmax(-1), expected[..., :-1], atol=1e-5, rtol=0)

    predictions, names, size = read_predictions(folder / "a.safetensors")
    assert ([list(synonyms) for synonyms in names], size) == (CLASSES, (50, 80))
    torch.testing.assert_close(predictions.masks.float(), masks[0], atol=0.01, rtol=1e-3)
    torch.testing.assert_close(predictions.log_scores, log_scores[0])


def test_fusing_is_the_geometric_mean_of_two_softmaxes():
    predicted, clip = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    valid = torch.tensor([[True, True, False]] * 2)
    weight = torch.tensor([0.35, 0.65, 0.35, 0.65])
    expected = predicted.softmax(-1) ** (1 - weight) * clip.softmax(-1) ** weight
    expected = (expected / expected.sum(-1, keepdim=True)).where(valid[..., None], predicted.softmax(-1))
    torch.testing.assert_close(fuse(predicted, clip, valid, SEEN, 0.35, 0.65).exp(), expected)


@pytest.fixture
def exported(towers, tmp_path):
    tower, text_tower = towers("tiny-vit")
    save_plugin_file(tmp_path / "plugin.safetensors", tower, text_tower, NAMES, "photo")
    return tmp_path / "plugin.safetensors"


def test_a_class_scores_as_its_best_synonym(exported):
    clip = ExportedCLIP(exported, SIZE)
    rows = dict(zip(NAMES, load_file(exported)["text"], strict=True))
    embeddings = F.normalize(torch.randn(2, 24), dim=-1)
    wanted = [[max(float(x @ rows[name]) for name in synonyms) for synonyms in CLASSES] for x in embeddings]
    torch.testing.assert_close(clip.logits(embeddings, CLASSES), torch.tensor(wanted) / 0.07, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="1 class names have no text embedding, first 'zebra'"):
        clip.logits(embeddings, [["cat", "zebra"]])


def test_an_exported_clip_is_no_part_of_a_checkpoint(exported):
    module = torch.nn.Sequential(ExportedCLIP(exported, SIZE))
    assert not module.state_dict()
    assert not list(module.parameters())
    assert module.double()[0].text.dtype == torch.float64


def test_an_exported_clip_runs_on_a_gpu(exported):
    """On a simulated one."""
    clip = ExportedCLIP(exported, SIZE)
    image, masks = image_and_masks()
    expected = clip.embed_masks(image.float(), masks)[0]
    with SecondDevice():
        found = clip.to("cuda").embed_masks(image.float().to("cuda"), masks.to("cuda"))[0]
        logits = clip.logits(found, CLASSES)
        assert found.device == logits.device == CUDA
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_of_another_kind_is_one_line(content, tmp_path):
    (tmp_path / "plugin.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"plugin\.safetensors: is no file of tools/convert_checkpoint\.py"):
        ExportedCLIP(tmp_path / "plugin.safetensors", SIZE)


def test_a_damaged_or_foreign_file_is_one_line(exported, tmp_path):
    content = exported.read_bytes()
    exported.write_bytes(content[:-1000])
    with pytest.raises(ValueError, match="is no file of"):
        ExportedCLIP(exported, SIZE)
    save_file({"weight": torch.zeros(2)}, exported)
    with pytest.raises(ValueError, match="its format is None"):
        ExportedCLIP(exported, SIZE)
    with pytest.raises(ValueError, match="absent"):
        ExportedCLIP(tmp_path / "absent.safetensors", SIZE)


def test_a_size_that_is_no_multiple_of_the_patch(exported):
    with pytest.raises(ValueError, match="size=60: not a multiple of the patch, 8 pixels"):
        ExportedCLIP(exported, 60)


def test_the_tool_exports_a_plug_in(towers, tmp_path, capsys):
    tower, text_tower = towers("tiny-eva")
    save_file({**tower.state_dict(), **text_tower.state_dict()}, tmp_path / "tower.safetensors")
    (tmp_path / "names.json").write_text(json.dumps([*NAMES, ["sky", "heaven"]]))
    output = tmp_path / "plugin.safetensors"
    command = [str(tmp_path / "tower.safetensors"), str(output), "--model", str(tmp_path / "tiny-eva.json")]
    main = load_tool("convert_checkpoint").main
    assert main([*command, "--format", "plugin", "--vocabulary", str(tmp_path / "names.json")]) == 0
    with safe_open(output, "pt") as file:
        assert json.loads(file.metadata()["names"]) == [*NAMES, "heaven"]
    image, masks = image_and_masks()
    found = ExportedCLIP(output, SIZE).embed_masks(image.float(), masks)[0]
    torch.testing.assert_close(found, TowerCLIP(tower, text_tower, SIZE, "photo").embed_masks(image, masks)[0])
    assert main([*command, "--format", "plugin"]) == 2
    assert main([*command, "--vocabulary", "cat"]) == 2
    assert "needs --vocabulary" in capsys.readouterr().err


def test_a_resnet_is_not_exported(towers, tmp_path):
    with pytest.raises(InputError, match="ResNetTower cannot be exported"):
        save_plugin_file(tmp_path / "plugin.safetensors", *towers("tiny-resnet"), NAMES, "photo")


def test_stored_text_embeddings_are_those_of_a_vocabulary(exported):
    clip, rows = ExportedCLIP(exported, SIZE), load_file(exported)["text"]
    embeddings = F.normalize(torch.randn(6, 24), dim=-1)
    torch.testing.assert_close(clip.logits(embeddings, CLASSES), Vocabulary(CLASSES, rows).cosines(embeddings) / 0.07)
