"""The exported dense encoder in its own runtime, against the tower."""

import pytest
import torch

from clipself_d2.cli.export import main
from clipself_d2.clip.export import TOLERANCE, DenseEncoder, check_path, compare, write_encoder
from clipself_d2.errors import InputError, RunError

SHAPES = [(batch, 3, *size) for batch in (1, 3) for size in ((32, 32), (24, 40), (64, 16))]


@pytest.mark.parametrize("family", ["tiny-vit-quickgelu", "tiny-eva"])
def test_onnx_gives_the_towers_map_at_any_batch_and_size(family, towers, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = DenseEncoder(towers(family)[0])
    write_encoder(encoder, tmp_path / "dense.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "dense.onnx"), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        images = torch.randint(256, shape).float()
        [dense] = session.run(["dense"], {"images": images.numpy()})
        with torch.no_grad():
            expected = encoder.tower.features(encoder.tower.normalize(images)).dense
        assert dense.shape == expected.shape
        assert (torch.from_numpy(dense) - expected).abs().max() < TOLERANCE


def test_torch_export_gives_it_too_and_caches_stay_clean(towers, tmp_path):
    tower = towers("tiny-eva")[0].requires_grad_(False)
    before = [tower.dense_embeddings(torch.zeros(shape)) for shape in SHAPES]
    encoder = DenseEncoder(tower)
    write_encoder(encoder, tmp_path / "dense.pt2")
    assert compare(encoder, tmp_path / "dense.pt2") < 1e-5
    assert all(
        torch.equal(tower.dense_embeddings(torch.zeros(shape)), b) for shape, b in zip(SHAPES, before, strict=True)
    )


def test_another_tower_is_noticed(towers, tmp_path):
    encoder = DenseEncoder(towers("tiny-vit")[0])
    write_encoder(encoder, tmp_path / "dense.pt2")
    with torch.no_grad():
        encoder.tower.position_embedding.mul_(2)
    with pytest.raises(RunError, match="differs from the tower by"):
        compare(encoder, tmp_path / "dense.pt2")


def test_what_is_missing_or_wrong_is_said_before_work(monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match=r"end the name in \.onnx"):
        check_path(tmp_path / "dense.pt")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    arguments = ["--clip", "OV-Shapes-ViT-8", "--pretrained", "null"]
    assert main([str(tmp_path / "dense.onnx"), *arguments]) == 2
    assert "pip install 'clipself_d2[export]'" in capsys.readouterr().err
