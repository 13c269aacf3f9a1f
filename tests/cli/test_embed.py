"""`clipself embed`: what it writes, and one line with code 2 for what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clipself_d2 import miniature
from clipself_d2.cli.embed import main
from clipself_d2.clip import build_text_tower
from clipself_d2.engine.hub import write_repository
from clipself_d2.vocabulary import TextClassifier


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSELF_D2_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["list", "txt", "json"])
def test_rows_are_the_text_embeddings(configs, checkpoint, tmp_path, kind):
    vocabulary = "cat,hot dog" if kind == "list" else str(tmp_path / f"classes.{kind}")
    (tmp_path / "classes.txt").write_text("cat, kitten\n\nhot dog\n")
    (tmp_path / "classes.json").write_text('[["cat", "kitten"], "hot dog"]')
    source = str(checkpoint("tiny-vit"))
    for suffix in (".npy", ".pt"):
        output = str(tmp_path / f"rows{suffix}")
        clip = ["--clip", configs["tiny-vit"], "--pretrained", source]
        assert main([*clip, "--vocabulary", vocabulary, "--output", output]) == 0
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
def test_wrong_arguments(configs, tmp_path, monkeypatch, capsys, vocabulary, output, reason):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("[")
    Path("numbers.json").write_text("[1]")
    clip = ["--clip", configs["tiny-vit"], "--pretrained", "null"]
    assert main([*clip, "--vocabulary", vocabulary, "--output", output]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and out.err.count("\n") == 1 and reason in out.err


def test_a_repository_brings_its_own_weights(tmp_path, capsys):
    write_repository(Path(miniature.CLIPSELF_WEIGHTS), tmp_path / "clip", "someone/clip", "mit")
    words = ["--vocabulary", "red star, lawn", "--templates", "photo", "--output", str(tmp_path / "rows.npy")]
    assert main(["--clip", f"local-dir:{tmp_path}/clip", *words]) == 0
    tower = build_text_tower(miniature.MODEL, miniature.CLIPSELF_WEIGHTS)
    expected = TextClassifier(tower, "photo", cache_dir=tmp_path / "other")(["red star", "lawn"])
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), expected.numpy(), atol=1e-6)
    assert main(["--clip", "ViT-B-16", *words]) == 2
    assert "--clip and --pretrained belong together" in capsys.readouterr().err
