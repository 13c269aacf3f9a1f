"""The page of all recipes names each, with the numbers of `reproduction.numbers`."""

from pathlib import Path

from reproduction import numbers, zoo

PAGE = Path(__file__).parents[2] / "docs/model_zoo.md"


def test_the_page_is_what_the_module_writes():
    assert PAGE.read_text() == zoo.page(), "cd tools && python -m reproduction.zoo > ../docs/model_zoo.md"


def test_every_recipe_is_named_once():
    files = [path for path in Path("configs").absolute().glob("*/*.py") if path.parent.name != "common"]
    assert len(files) > 30
    for path in files:
        assert PAGE.read_text().count(f"--config-file {path.parent.name}/{path.stem}`") == 1


def test_a_recipe_has_the_papers_numbers():
    [line] = [line for line in PAGE.read_text().splitlines() if "detection/fvit_eva02_b16_ovcoco`" in line]
    novel, base, everything = numbers.COCO_EVA_B["proposals"]
    assert f"novel {novel}, base {base}, all {everything}" in line
