"""A font for every letter that some installed font has, and one warning for the others."""

import pytest
from matplotlib import ft2font
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager

from clipself_d2.visualization import fonts
from clipself_d2.visualization.fonts import font_families


@pytest.fixture(autouse=True)
def _forget():
    fonts._families.cache_clear()


def codes(family):
    return ft2font.FT2Font(findfont(FontProperties(family=[family]))).get_charmap().keys()


def test_letters_of_the_default_font_need_no_other():
    assert font_families(["cat", "кошка", ""]) == ["sans-serif"]


def test_another_installed_font_is_found(caplog):
    default, letters = codes("sans-serif"), []
    for font in fontManager.ttflist:
        if font.style == "normal" and font.weight == 400 and not font.name.startswith("Last Resort"):
            letters += filter(str.isprintable, map(chr, ft2font.FT2Font(font.fname).get_charmap().keys() - default))
    if not letters:
        pytest.skip("the default font has all letters of the others")
    families = font_families([f"a{letters[0]}", letters[-1]])
    assert families[0] == "sans-serif" and not caplog.text
    assert {ord(letters[0]), ord(letters[-1])} <= set().union(*map(codes, families))


def test_letters_that_no_font_has_are_warned_of_once(caplog):
    for _ in range(2):
        assert font_families(["cat \U0010fffd"]) == ["sans-serif"]
    assert caplog.text.count("no installed font has the letters \U0010fffd") == 1


def test_fonts_that_cannot_be_read_are_passed_over(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert fonts._letters(str(tmp_path / "a.ttf")) == fonts._letters(str(tmp_path / "b.ttf")) == frozenset()


def test_matplotlib_takes_the_families():
    figure = Figure()
    text = figure.text(0, 0, "cat", fontfamily=font_families(["cat"]))
    assert text.get_fontfamily() == ["sans-serif"]
