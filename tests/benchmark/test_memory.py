import json

from clipself_d2.benchmark import cli


def test_a_row_for_each_size_with_and_without_checkpointing(tiny_overrides, tmp_path, capsys):
    sizes = ["--sizes", "60", "130"]
    arguments = ["memory", "--device", "cpu", "--models", "tiny", *sizes, "--output", str(tmp_path), *tiny_overrides]
    assert cli.main(arguments) == 0
    rows = json.loads((tmp_path / "memory-cpu.json").read_text())["rows"]
    assert [(row["size"], row["checkpointing"]) for row in rows] == [(64, False), (64, True), (128, False), (128, True)]
    assert all(row["seconds"] > 0 for row in rows)
    assert "checkpointing" in capsys.readouterr().out


def test_an_unknown_model_is_named(capsys):
    assert cli.main(["memory", "--device", "cpu", "--models", "BERT"]) == 2
    assert "--models BERT: use some of EVA02-B-16" in capsys.readouterr().err
