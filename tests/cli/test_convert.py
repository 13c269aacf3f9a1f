"""`clipself convert`: what it writes, and one line with code 2 for what is wrong."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from clipself_d2 import miniature
from clipself_d2.cli.convert import main
from clipself_d2.clip import build_towers, read_checkpoint
from clipself_d2.engine.hub import write_repository


def test_to_open_clip(configs, checkpoint, tmp_path, capsys):
    source, output = checkpoint("tiny-eva"), tmp_path / "out" / "eva.safetensors"
    assert main([str(source), str(output), "--clip", configs["tiny-eva"]]) == 0
    assert "wrote" in capsys.readouterr().out
    images = torch.randn(1, 3, 32, 32)
    ours, _ = build_towers(configs["tiny-eva"], str(source))
    theirs = open_clip.create_model("tiny-eva", pretrained=str(output)).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(images), ours.image_embeddings(images), atol=1e-5, rtol=1e-5)
    assert json.loads(output.with_suffix(".json").read_text()) == {"model": "eva_model.json", "source": "tiny-eva.pt"}
    assert json.loads((output.parent / "eva_model.json").read_text())["embed_dim"] == 24


def test_to_openai_and_back(configs, checkpoint, tmp_path):
    name, source = configs["tiny-vit-quickgelu"], checkpoint("tiny-vit-quickgelu")
    assert main([str(source), str(tmp_path / "a.pt"), "--clip", name, "--format", "openai"]) == 0
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--clip", name]) == 0
    images = torch.randn(1, 3, 32, 32)
    answers = [build_towers(name, str(p))[0].image_embeddings(images) for p in (source, tmp_path / "b.safetensors")]
    torch.testing.assert_close(*answers)


def test_to_cat_seg_and_back(configs, checkpoint, tmp_path):
    name, source = configs["tiny-vit-quickgelu"], checkpoint("tiny-vit-quickgelu")
    assert main([str(source), str(tmp_path / "a.pth"), "--clip", name, "--format", "cat-seg"]) == 0
    assert main([str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--clip", name]) == 0
    back, state = load_file(tmp_path / "b.safetensors"), torch.load(source, weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_a_repository_is_input_and_model(tmp_path):
    write_repository(Path(miniature.CLIPSELF_WEIGHTS), tmp_path / "clip", "someone/clip", "mit")
    output = tmp_path / "b.safetensors"
    assert main([f"local-dir:{tmp_path}/clip", str(output)]) == 0
    found, expected = load_file(output), read_checkpoint(miniature.CLIPSELF_WEIGHTS)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key].float()) for key in found)


def test_resizes_positions_when_asked_to(configs, checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    torch.save({**state, "visual.positional_embedding": torch.randn(10, 128)}, tmp_path / "small.pt")
    arguments = [str(tmp_path / "small.pt"), str(tmp_path / "a.safetensors"), "--clip", configs["tiny-vit"]]
    assert main(arguments) == 2
    assert "--resize-positions" in capsys.readouterr().err
    assert main([*arguments, "--resize-positions"]) == 0
    assert load_file(tmp_path / "a.safetensors")["visual.positional_embedding"].shape == (17, 128)


@pytest.mark.parametrize(
    "args, reason",
    [
        (["absent.pt", "b.safetensors", "--clip", "ViT-B-16"], "no such file"),
        (["{file}", "b.safetensors"], "tiny-vit.pt: name its CLIP by --clip"),
        (["local-dir:absent", "b.safetensors"], "no such folder"),
        (["{file}", "b.safetensors", "--modle", "ViT-B-16"], "unrecognized arguments: --modle"),
        (["{file}", "b.pt", "--clip", "ViT-B-16"], "safetensors"),
        (["{file}", "b.safetensors", "--clip", "ViT-B16"], "ViT-B-16"),
        (["{file}", "b.safetensors", "--clip", "ViT-B-16", "--format", "openai"], ".pt"),
        (["{file}", "b.safetensors", "--clip", "{other}"], "does not fit"),
        (["{file}", "b.pt", "--clip", "ViT-B-16", "--format", "cat-seg"], ".pth"),
        (["{file}", "b.pt", "--clip", "{same}", "--format", "openai"], "QuickGELU"),
        (["{eva}", "b.pth", "--clip", "{other}", "--format", "cat-seg"], "EVA-02's rotary positions"),
    ],
)
def test_wrong_arguments(configs, checkpoint, tmp_path, monkeypatch, capsys, args, reason):
    monkeypatch.chdir(tmp_path)
    fill = {"file": checkpoint("tiny-vit"), "other": configs["tiny-eva"], "same": configs["tiny-vit"]}
    fill["eva"] = checkpoint("tiny-eva")
    assert main([a.format(**fill) for a in args]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and reason in out.err
    assert not list(tmp_path.glob("b.*"))
