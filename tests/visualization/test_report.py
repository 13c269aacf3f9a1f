"""The report: well-formed, self-contained and escaped; its images and tables say what they were given."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipself_d2.visualization.report import Code, Figure, Mark, Section, Table, Text, Tile, Tiles, write_report

VOID = {"meta", "img", "link", "br", "line"}
EVIL = "<script>alert('x')</script> & \"quoted\""


class Page(HTMLParser):
    """Checks that tags nest and collects elements and text."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.stack[-1] if self.stack else "", data.strip()))

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def render(tmp_path: Path, *blocks: object) -> Page:
    path = write_report(tmp_path / "deep" / "report.html", "Title", [Section("Only", blocks)])  # type: ignore[arg-type]
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.stack
    return page


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))


def test_every_text_is_escaped(tmp_path: Path, image: Image.Image) -> None:
    blocks = [
        Text(EVIL),
        Code(EVIL),
        Tiles([Tile(EVIL, EVIL, EVIL)]),
        Table([EVIL, EVIL], [[EVIL, Mark(EVIL, "good")]], caption=EVIL, groups=[(EVIL, 2)]),
        Figure(image, EVIL, 90, caption=EVIL),
    ]
    path = write_report(tmp_path / "report.html", EVIL, [Section(EVIL, blocks)], lead=EVIL)
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html
    page = Page()
    page.feed(html)
    assert not page.stack
    places = {"page": 5, "text": 1, "code": 1, "tile": 3, "table": 6, "figure": 1}
    assert sum(EVIL in text for _, text in page.texts) == sum(places.values())
    assert page.find("img")[0]["alt"] == EVIL


def test_nothing_is_loaded_from_outside(tmp_path: Path, image: Image.Image) -> None:
    page = render(tmp_path, Figure(image, "noise", 90))
    html = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)
    assert all(attributes["href"].startswith("#") for attributes in page.find("a"))  # type: ignore[union-attr]
    targets = {attributes["id"] for attributes in page.find("section")}
    assert {attributes["href"][1:] for attributes in page.find("a")} == targets  # type: ignore[index]


def test_images_decode_to_what_was_given(tmp_path: Path, image: Image.Image) -> None:
    page = render(tmp_path, Figure(image, "noise", 90))
    (attributes,) = page.find("img")
    head, data = attributes["src"].split(",", 1)  # type: ignore[union-attr]
    assert head == "data:image/png;base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert np.array_equal(np.asarray(decoded), np.asarray(image))
    assert (attributes["width"], attributes["height"], attributes["class"]) == ("9", "6", "crisp")


def test_a_figure_wider_than_its_place_is_not_pixelated(tmp_path: Path, image: Image.Image) -> None:
    page = render(tmp_path, Figure(image, "noise", 8))
    assert "class" not in page.find("img")[0]


def test_a_table_writes_numbers_words_and_gaps(tmp_path: Path) -> None:
    table = Table(
        ["name", "top-1", "change", "note"], [["boxes", 81.25, Mark("+3", "good"), "ours"], ["x", 7, None, ""]]
    )
    page = render(tmp_path, table)
    assert page.text("td") == ["boxes", "81.2", "+3", "ours", "x", "7.0", "–"]  # noqa: RUF001
    classes = [attributes["class"].split() for attributes in page.find("td")]  # type: ignore[union-attr]
    assert [names[0] for names in classes[:4]] == ["left", "right", "right", "left"]
    assert classes[2][1] == "good"


def test_table_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError, match="3 cells"):
        Table(["a", "b"], [[1, 2, 3]])


def test_an_empty_table_renders(tmp_path: Path) -> None:
    assert not render(tmp_path, Table(["a", "b"], [])).find("td")


def test_text_makes_paragraphs(tmp_path: Path) -> None:
    page = render(tmp_path, Text("one\n  line\n\n\ntwo"))
    assert page.text("p") == ["one line", "two"]
