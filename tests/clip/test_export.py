"""The exported dense encoder in its own runtime, against the tower."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clipself_d2 import miniature
from clipself_d2.cli.export import check_path, main
from clipself_d2.clip import build_image_tower, export
from clipself_d2.clip.export import (
    TOLERANCE,
    DenseEncoder,
    check_difference,
    compare,
    write_encoder,
)
from clipself_d2.engine.hub import write_repository
from clipself_d2.errors import InputError, RunError


@pytest.fixture
def shallow(towers):
    """An image tower of two blocks, an ordinary one and the last: exports take seconds per block."""

    def draw(family):
        tower = towers(family)[0]
        del tower.trainable_units()[0]
        tower.num_blocks -= 1
        return tower

    return draw


SHAPES = [(batch, 3, *size) for batch in (1, 3) for size in ((32, 32), (24, 40), (64, 16))]


@pytest.mark.parametrize(
    "family", ["tiny-vit-quickgelu", "tiny-eva", "tiny-pooled", "tiny-pe", "tiny-coca", "tiny-mobileclip"]
)
def test_onnx_gives_the_towers_map_at_any_batch_and_size(family, shallow, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = DenseEncoder(shallow(family))
    write_encoder(encoder, tmp_path / "dense.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "dense.onnx"), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        images = torch.randint(256, shape).float()
        [dense] = session.run(["dense"], {"images": images.numpy()})
        with torch.no_grad():
            expected = encoder.tower.features(encoder.tower.normalize(images)).dense
        assert dense.shape == expected.shape
        assert (torch.from_numpy(dense) - expected).abs().max() < TOLERANCE


def test_torch_export_gives_it_too_and_caches_stay_clean(shallow, tmp_path):
    tower = shallow("tiny-eva").requires_grad_(False)
    before = [tower.dense_embeddings(torch.zeros(shape)) for shape in SHAPES]
    encoder = DenseEncoder(tower)
    write_encoder(encoder, tmp_path / "dense.pt2")
    worst, cosine = compare(encoder, tmp_path / "dense.pt2")
    assert worst < 1e-5 < 0.9999 < cosine
    assert all(
        torch.equal(tower.dense_embeddings(torch.zeros(shape)), b) for shape, b in zip(SHAPES, before, strict=True)
    )
    with torch.no_grad():  # another tower is noticed
        tower.position_embedding.mul_(2)
    worst, _ = compare(encoder, tmp_path / "dense.pt2")
    with pytest.raises(RunError, match="differs from PyTorch by"):
        check_difference(worst, tmp_path / "dense.pt2")


def test_what_is_missing_or_wrong_is_said_before_work(monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match=r"end the name in \.onnx"):
        check_path(tmp_path / "dense.pt")
    assert main([str(tmp_path / "dense.pt2"), "--clip", "ViT-B-16", "--pretrained", "null", "--int8"]) == 2
    assert "--int8 is for encoders in ONNX" in capsys.readouterr().err
    assert main([str(tmp_path / "dense.pt2"), "--clip", "ViT-B-16"]) == 2
    assert "--clip and --pretrained belong together" in capsys.readouterr().err
    assert main([str(tmp_path / "dense.pt2")]) == 2
    assert "or --config-file for an F-ViT" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    arguments = ["--clip", "OV-Shapes-ViT-8", "--pretrained", "null"]
    assert main([str(tmp_path / "dense.onnx"), *arguments]) == 2
    assert "pip install 'clipself_d2[export]'" in capsys.readouterr().err


def test_the_command_writes_int8_whose_map_is_nearly_the_towers(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "small.onnx"
    assert not main([str(file), "--clip", miniature.MODEL, "--pretrained", miniature.WEIGHTS, "--int8"])
    assert f"written to {file}" in capsys.readouterr().out
    assert file.stat().st_size < 0.5 * Path(miniature.WEIGHTS).stat().st_size
    tower = build_image_tower(miniature.MODEL, miniature.WEIGHTS).eval()
    images = torch.randint(256, (2, 3, 96, 128)).float()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        dense = tower.dense_embeddings(tower.normalize(images))
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert F.cosine_similarity(found, dense).min() > 0.95
    assert (found - dense).abs().max() > TOLERANCE


def test_a_repository_brings_its_own_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "milliseconds", lambda *_: (1.0, 2.0))  # measures for two seconds
    write_repository(Path(miniature.CLIPSELF_WEIGHTS), tmp_path / "clip", "someone/clip", "mit")
    assert not main([str(tmp_path / "dense.pt2"), "--clip", f"local-dir:{tmp_path}/clip"]), capsys.readouterr().err
    tower = build_image_tower(miniature.MODEL, miniature.CLIPSELF_WEIGHTS).eval()
    assert compare(DenseEncoder(tower), tmp_path / "dense.pt2")[0] < TOLERANCE
