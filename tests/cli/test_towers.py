"""`clipself towers`: the list of what is taken."""

import open_clip

from clipself_d2.cli import main
from clipself_d2.cli.towers import _known_names


def test_names_are_those_of_open_clip():
    shipped = [name for name in open_clip.list_models() if name in _known_names()]
    assert len(shipped) == len(_known_names()) >= 144


def test_names_that_are_taken_and_refused(capsys):
    assert main(["towers", "mobileCLIP2", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 of open_clip's names:"
    assert [line.split() for line in lines if line.startswith("MobileCLIP2-")] == [
        ["MobileCLIP2-B", "ViT", "class", "86", "16", "224", "512"],
        ["MobileCLIP2-L-14", "ViT", "class", "304", "14", "224", "768"],
    ]
    assert "2 taken, 4 refused" in lines
    assert sum("its image tower, FastVit, has no dense map" in line for line in lines) == 4


def test_a_text_tower_of_the_hub_and_a_filter_that_fits_nothing(capsys):
    assert main(["towers", "ViT-B-32-SigLIP2"]) == 0
    assert ["ViT-B-32-SigLIP2-256", "ViT", "pool", "95", "32", "256", "768", "hub"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert main(["towers", "ViT-B-17"]) == 2
    assert "'ViT-B-17': no name of open_clip contains it" in capsys.readouterr().err
