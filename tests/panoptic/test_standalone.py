"""The single files for other projects: what they import, and that a second process computes what this package does."""

import ast
import json
import math
import os
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
from tests.clip.conftest import CONFIGS, randomize
from tests.second_device import CUDA, SecondDevice
from tests.tools.loading import load_tool

FOLDER = Path(clipself_d2.panoptic.standalone.__file__).parent
FILES = sorted(FOLDER.glob("clipself_*.py"))
CLASSES = [["cat", "kitty"], ["dog"], ["grass", "lawn"], ["sky"]]
NAMES = [name for synonyms in CLASSES for name in synonyms]
SEEN = torch.tensor([True, False, True, False])
SIZE = 64
EXPORTED = ["tiny-vit", "tiny-vit-quickgelu", "tiny-vit-layerscale", "tiny-eva", "tiny-clipa"]


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


def image_and_masks(height=50, width=80):
    """A smooth image and the logits of five masks, of which the last is empty."""
    image = F.interpolate(torch.rand(1, 3, 5, 7) * 255, (height, width), mode="bicubic").clamp(0, 255).byte()
    masks = F.interpolate(5 * torch.randn(1, 5, 4, 6), (height // 2, width // 2), mode="bilinear")
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
    runs = []
    for family in EXPORTED:
        (tmp_path / family).mkdir()
        runs.append(Run(tmp_path / family, *towers(family), SIZE, *image_and_masks()))
    run_host(sys.executable, *(run.folder for run in runs))
    for run in runs:
        assert max(run.differences().values()) < 1e-5


@pytest.mark.skipif("HOST_PYTHON" not in os.environ, reason="HOST_PYTHON names no Python that has an old torch")
@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "EVA02-B-16"])
def test_an_old_python_computes_the_same_at_published_size(name, tmp_path):
    """The table in docs/panoptic.md."""
    run = Run(tmp_path, *build_towers(name, None), 640, *image_and_masks(427, 640))
    run_host(os.environ["HOST_PYTHON"], tmp_path)
    differences = run.differences()
    print(name, {key: f"{value:.1e}" for key, value in differences.items()})
    assert max(differences.values()) < 1e-5


def run_host(python, *folders):
    script = Path(__file__).with_name("host_process.py")
    environment = {"PATH": "", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([python, script, FOLDER, *folders], check=True, env=environment, timeout=600)


class Run:
    """What a host process is given in a folder, and what it should have written there."""

    def __init__(self, folder, tower, text_tower, size, image, masks):
        self.folder, self.tower, self.size, self.image, self.masks = folder, tower, size, image, masks
        self.clip = TowerCLIP(tower, text_tower, size, "photo")
        self.logits = torch.randn(1, len(masks[0]), 5)
        save_plugin_file(folder / "plugin.safetensors", tower, text_tower, NAMES, "photo")
        arrays = {"images": image, "masks": masks, "logits": self.logits, "seen": SEEN}
        classes = np.array([",".join(synonyms) for synonyms in CLASSES])
        arrays = {name: value.numpy() for name, value in arrays.items()}
        np.savez(folder / "inputs.npz", classes=classes, size=size, **arrays)

    @torch.no_grad()
    def differences(self):
        """Check what the host wrote; the largest differences of maps, unit vectors and probabilities."""
        with np.load(self.folder / "outputs.npz") as outputs:
            found = {name: torch.from_numpy(array) for name, array in outputs.items()}
        rows, columns = found["dense"].shape[2:]
        longest = max(self.image.shape[-2:])
        patches = [math.ceil(side * self.size / longest / self.tower.stride) for side in self.image.shape[-2:]]
        assert [rows, columns] == patches
        dense = dense_features(self.tower, letterbox_images(self.tower, list(self.image), self.size)).dense
        embeddings, valid = self.clip.embed_masks(self.image, self.masks)
        assert torch.equal(found["valid"], valid)
        assert valid.tolist() == [[True] * (valid.shape[1] - 1) + [False]]
        clip = self.clip.logits(embeddings, CLASSES)
        torch.testing.assert_close(found["logits"], clip, atol=1e-4, rtol=0)

        log_scores, clip = self.logits.log_softmax(-1), clip.log_softmax(-1)
        fcclip = fuse_scores(log_scores, clip, SEEN, 0.4, 0.8, "fcclip")
        fcclip[:, -1] = log_scores[:, -1].exp()  # the mask that vanished
        no_void = F.pad(self.logits[..., :-1].log_softmax(-1), (0, 1), value=-torch.inf)
        odise = fuse_scores(no_void, clip, SEEN, 0.35, 0.65, "odise")
        odise[:, -1] = no_void[:, -1].exp()

        predictions, names, size = read_predictions(self.folder / "a.safetensors")
        assert ([list(synonyms) for synonyms in names], size) == (CLASSES, tuple(self.image.shape[-2:]))
        torch.testing.assert_close(predictions.masks.float(), self.masks[0], atol=0.01, rtol=1e-3)
        torch.testing.assert_close(predictions.log_scores, log_scores[0])
        pairs = {
            "dense": (found["dense"], dense[..., :rows, :columns]),
            "embeddings": (found["embeddings"], embeddings),
            "odise": (found["odise"].softmax(-1), odise[..., :-1]),
            "fcclip": (found["fcclip"].exp(), fcclip),
        }
        return {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}


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
    save_file({"weight": torch.zeros(2, dtype=torch.bfloat16)}, exported)
    with pytest.raises(ValueError, match="weight is BF16, not F32"):
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
    command = [str(tmp_path / "tower.safetensors"), str(output), "--clip", str(tmp_path / "tiny-eva.json")]
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
