"""The two tools at the command line: what they write, and one line with code 2 for what is wrong."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from clipself_d2.clip import build_text_tower, build_towers
from clipself_d2.vocabulary import TextClassifier
from tests.tools.loading import load_tool


def tool(name):
    return load_tool(name).main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))


def test_convert_to_open_clip(configs, checkpoint, tmp_path, capsys):
    source, output = checkpoint("tiny-eva"), tmp_path / "out" / "eva.safetensors"
    assert tool("convert_checkpoint")([str(source), str(output), "--model", configs["tiny-eva"]]) == 0
    assert "wrote" in capsys.readouterr().out
    images = torch.randn(1, 3, 32, 32)
    ours, _ = build_towers(configs["tiny-eva"], str(source))
    theirs = open_clip.create_model("tiny-eva", pretrained=str(output)).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(images), ours.image_embeddings(images), atol=1e-5, rtol=1e-5)
    assert json.loads(output.with_suffix(".json").read_text()) == {"model": "eva_model.json", "source": "tiny-eva.pt"}
    assert json.loads((output.parent / "eva_model.json").read_text())["embed_dim"] == 24


def test_convert_to_openai_and_back(configs, checkpoint, tmp_path):
    name, source = configs["tiny-vit-quickgelu"], checkpoint("tiny-vit-quickgelu")
    main = tool("convert_checkpoint")
    assert main([str(source), str(tmp_path / "a.pt"), "--model", name, "--format", "openai"]) == 0
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--model", name]) == 0
    images = torch.randn(1, 3, 32, 32)
    answers = [build_towers(name, str(p))[0].image_embeddings(images) for p in (source, tmp_path / "b.safetensors")]
    torch.testing.assert_close(*answers)


def test_convert_to_cat_seg_and_back(configs, checkpoint, tmp_path):
    name, source = configs["tiny-vit-quickgelu"], checkpoint("tiny-vit-quickgelu")
    main = tool("convert_checkpoint")
    assert main([str(source), str(tmp_path / "a.pth"), "--model", name, "--format", "cat-seg"]) == 0
    assert main([str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--model", name]) == 0
    back, state = load_file(tmp_path / "b.safetensors"), torch.load(source, weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_convert_resizes_positions_when_asked_to(configs, checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint("tiny-vit"), weights_only=True)
    torch.save({**state, "visual.positional_embedding": torch.randn(10, 128)}, tmp_path / "small.pt")
    arguments = [str(tmp_path / "small.pt"), str(tmp_path / "a.safetensors"), "--model", configs["tiny-vit"]]
    assert tool("convert_checkpoint")(arguments) == 2
    assert "--resize-positions" in capsys.readouterr().err
    assert tool("convert_checkpoint")([*arguments, "--resize-positions"]) == 0
    assert load_file(tmp_path / "a.safetensors")["visual.positional_embedding"].shape == (17, 128)


@pytest.mark.parametrize(
    "args, reason",
    [
        (["absent.pt", "b.safetensors", "--model", "ViT-B-16"], "no such file"),
        (["{file}", "b.pt", "--model", "ViT-B-16"], "safetensors"),
        (["{file}", "b.safetensors", "--model", "ViT-B16"], "ViT-B-16"),
        (["{file}", "b.safetensors", "--model", "ViT-B-16", "--format", "openai"], ".pt"),
        (["{file}", "b.safetensors", "--model", "{other}"], "does not fit"),
        (["{file}", "b.pt", "--model", "ViT-B-16", "--format", "cat-seg"], ".pth"),
        (["{file}", "b.pt", "--model", "{same}", "--format", "openai"], "QuickGELU"),
        (["{eva}", "b.pth", "--model", "{other}", "--format", "cat-seg"], "EVA-02's rotary positions"),
    ],
)
def test_convert_wrong_arguments(configs, checkpoint, tmp_path, monkeypatch, capsys, args, reason):
    monkeypatch.chdir(tmp_path)
    fill = {"file": checkpoint("tiny-vit"), "other": configs["tiny-eva"], "same": configs["tiny-vit"]}
    fill["eva"] = checkpoint("tiny-eva")
    assert tool("convert_checkpoint")([a.format(**fill) for a in args]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and reason in out.err
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("kind", ["list", "txt", "json"])
def test_embed_vocabulary(configs, checkpoint, tmp_path, kind):
    vocabulary = "cat,hot dog" if kind == "list" else str(tmp_path / f"classes.{kind}")
    (tmp_path / "classes.txt").write_text("cat, kitten\n\nhot dog\n")
    (tmp_path / "classes.json").write_text('[["cat", "kitten"], "hot dog"]')
    source = str(checkpoint("tiny-vit"))
    for suffix in (".npy", ".pt"):
        output = str(tmp_path / f"rows{suffix}")
        arguments = [
            "--model",
            configs["tiny-vit"],
            "--pretrained",
            source,
            "--vocabulary",
            vocabulary,
            "--output",
            output,
        ]
        assert tool("embed_vocabulary")(arguments) == 0
    classes = ["cat", "hot dog"] if kind == "list" else [["cat", "kitten"], "hot dog"]
    expected = TextClassifier(build_text_tower(configs["tiny-vit"], source), cache_dir=tmp_path / "other")(classes)
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), expected.numpy(), atol=1e-6)
    by_name = torch.load(tmp_path / "rows.pt", weights_only=True)
    assert list(by_name) == ["cat", "hot dog"]
    torch.testing.assert_close(by_name["hot dog"], expected[1])


@pytest.mark.parametrize(
    "vocabulary, output, reason",
    [
        ("cat,cat", "rows.npy", "given twice"),
        ("absent.txt", "rows.npy", "absent.txt: there is no such file"),
        ("bad.json", "rows.npy", "bad.json: this vocabulary is not JSON"),
        ("numbers.json", "rows.npy", "list of names"),
        ("cat", "rows.csv", "end the name in .npy or .pt"),
    ],
)
def test_embed_vocabulary_wrong_arguments(configs, tmp_path, monkeypatch, capsys, vocabulary, output, reason):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("[")
    Path("numbers.json").write_text("[1]")
    arguments = [
        "--model",
        configs["tiny-vit"],
        "--pretrained",
        "null",
        "--vocabulary",
        vocabulary,
        "--output",
        output,
    ]
    assert tool("embed_vocabulary")(arguments) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and reason in out.err


@pytest.mark.parametrize("name", ["convert_checkpoint", "embed_vocabulary"])
def test_an_unknown_argument_is_one_line(name, capsys):
    assert tool(name)(["--modle", "x"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "--help" in err


@pytest.mark.parametrize(
    ("name", "example"),
    [("convert_checkpoint", "clipself convert"), ("embed_vocabulary", "python tools/embed_vocabulary.py")],
)
def test_help_teaches_by_example(name, example, capsys):
    with pytest.raises(SystemExit) as caught:
        tool(name)(["--help"])
    assert caught.value.code == 0
    assert f"  {example} " in capsys.readouterr().out
