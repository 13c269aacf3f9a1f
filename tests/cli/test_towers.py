"""`clipself towers`: the list of what is taken."""

from clipself_d2.cli import main


def test_names_that_are_taken_and_refused(capsys):
    assert main(["towers", "mobileCLIP2", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
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
