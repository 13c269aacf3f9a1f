"""An F-ViT with a fixed vocabulary in other runtimes, against the detector itself on images of the miniature."""

import pytest
import torch

from clipself_d2.cli.export import main
from clipself_d2.clip import export
from clipself_d2.clip.export import load_program
from clipself_d2.detection.export import compare_detections, write_detector
from clipself_d2.engine.config import load_config
from clipself_d2.engine.inference import load_trained
from clipself_d2.miniature.dataset import scene_of
from clipself_d2.miniature.render import render


@pytest.fixture
def detector():
    """The detector that ships, with its classes."""
    return load_trained(load_config("miniature/detector", ["train.device=cpu", "train.precision=fp32"]))


def test_an_onnx_file_finds_what_the_detector_finds(detector, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "milliseconds", lambda *_: (1.0, 2.0))  # measures for two seconds
    path = tmp_path / "fvit.onnx"
    assert main([str(path), "--config-file", "miniature/detector"]) == 0, capsys.readouterr().err
    assert "largest difference to PyTorch" in (out := capsys.readouterr().out)
    assert "PyTorch 1.0 ms, onnxruntime 2.0 ms" in out
    check(load_program(path), detector)


def test_torch_export_does_too(detector, tmp_path):
    write_detector(detector, tmp_path / "fvit.pt2")
    check(load_program(tmp_path / "fvit.pt2"), detector)
    assert compare_detections(detector, tmp_path / "fvit.pt2") < 1e-5
    detector.roi_heads.alpha = 0.2
    assert compare_detections(detector, tmp_path / "fvit.pt2") > 1e-3


@torch.no_grad()
def check(run, detector) -> None:
    """A square scene, and one of which the lower part is missing."""
    for number, height in ((0, 128), (1, 80)):
        pixels, _ = render(scene_of("val", number), 128)
        image = torch.from_numpy(pixels).permute(2, 0, 1)[:, :height].contiguous()
        square = torch.full((1, 3, 128, 128), 99.0)  # what lies beyond the image does not count
        square[0, :, :height] = image
        boxes, scores, classes = run(square, torch.tensor([float(height), 128.0]))
        expected = detector([{"image": image}])[0]["instances"]
        assert len(scores) == len(expected) > 10
        torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(boxes, expected.pred_boxes.tensor, rtol=0, atol=1e-4 * 128)
        assert torch.equal(classes, expected.pred_classes)


def test_what_is_no_detector_is_refused(tmp_path, capsys):
    arguments = ["--config-file", "miniature/zero_shot_semantic", "--words", "red star, blue heart"]
    assert main([str(tmp_path / "fvit.pt2"), *arguments]) == 2
    captured = capsys.readouterr()
    assert "2 classes: red star, blue heart" in captured.out and "is no F-ViT" in captured.err
