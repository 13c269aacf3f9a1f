"""A report in one HTML file: sections of text, tables, code and images. It knows nothing of what it reports.

The file loads nothing from outside: images are PNG in base64 and the style is in `report.html`. All text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

Tone = Literal["plain", "good", "bad", "quiet", "strong"]


@dataclass(frozen=True)
class Mark:
    """A value with a tone: `good` is green, `bad` red, `quiet` gray, `strong` bold."""

    value: str | float | None
    tone: Tone = "plain"


Cell = str | float | Mark | None


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text, separated by empty lines."""

    text: str
    kind: ClassVar[str] = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs, each on one line."""
        return [" ".join(part.split()) for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Code:
    """Commands or output in a monospaced font."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Tile:
    """One headline figure: a short label, the figure, and a remark."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """Headline figures in a row."""

    tiles: Sequence[Tile]
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Table:
    """A table. Numbers have one decimal and stand on the right; None is an en dash.

    Attributes:
        columns: headings.
        rows: one cell per column. The first column names the rows.
        caption: text under the table.
        groups: headings over the columns from left to right, each with its number of columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    groups: Sequence[tuple[str, int]] = ()
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    @property
    def marks(self) -> list[list[Mark]]:
        """The rows, each cell as its text and tone."""
        return [[_format(cell) for cell in row] for row in self.rows]

    @property
    def alignments(self) -> list[str]:
        """`left` for the first column and columns of words, `right` for columns of numbers."""
        columns = zip(*self.marks, strict=True) if self.rows else [()] * len(self.columns)
        words = [any(str(mark.value)[:1].isalpha() for mark in column) for column in columns]
        return ["left" if i == 0 or word else "right" for i, word in enumerate(words)]


def _format(cell: Cell) -> Mark:
    mark = cell if isinstance(cell, Mark) else Mark(cell)
    if mark.value is None:
        return Mark("\N{EN DASH}", mark.tone)
    return mark if isinstance(mark.value, str) else Mark(f"{mark.value:.1f}", mark.tone)


@dataclass(frozen=True)
class Figure:
    """An image, `width` pixels wide where the page has room. `alt` says what it shows to those who cannot see it."""

    image: Image.Image
    alt: str
    width: int
    caption: str = ""
    kind: ClassVar[str] = "figure"

    @property
    def source(self) -> str:
        """The image as a data URI."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


Block = Text | Code | Tiles | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Block]


def write_report(path: str | Path, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Write a report that a browser opens from disk.

    Args:
        path: the HTML file; missing folders are made.
        title: the heading of the page.
        sections: in order; links at the top lead to them.
        lead: a sentence or two under the title.

    Returns:
        The path.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(title=title, lead=lead, sections=sections)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
