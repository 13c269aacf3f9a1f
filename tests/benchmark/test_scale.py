import json

from clipself_d2.benchmark import cli


def test_two_ranks_take_a_step_together(tmp_path, capsys):
    tiny = [
        "--model",
        "ViT-B-16-quickgelu",
        "clip.name=RN50",
        "model.teacher_size=null",
        "model.trainable_blocks=1",
        "--size",
        "64",
    ]
    arguments = ["scale", "--device", "cpu", "--rounds", "1", "--output", str(tmp_path), *tiny]
    assert cli.main(arguments) == 0
    numbers = json.loads((tmp_path / "scale-cpu.json").read_text())
    assert numbers["efficiency"] == numbers["reference"] / numbers["ours"] > 0
    assert "% of 2 times the speed of one rank" in " ".join(capsys.readouterr().out.split())


def test_one_rank_is_no_comparison(capsys):
    assert cli.main(["scale", "--ranks", "1"]) == 2
    assert "--ranks 1: must be at least 2" in capsys.readouterr().err
