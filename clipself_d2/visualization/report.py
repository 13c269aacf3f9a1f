"""A report in one HTML file: sections of text, tables, pictures and curves. It knows nothing of what it reports.

The file loads nothing from outside: pictures are PNG in base64, curves are inline SVG, the style is in `report.html`.
All text is escaped.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator
from PIL import Image

Tone = Literal["plain", "good", "bad", "quiet", "strong"]


@dataclass(frozen=True)
class Mark:
    """A value with a tone: `good` is green, `bad` red, `quiet` grey, `strong` bold."""

    value: str | float | None
    tone: Tone = "plain"


Cell = str | float | Mark | None


def _mark(cell: Cell) -> Mark:
    return cell if isinstance(cell, Mark) else Mark(cell)


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text, divided by empty lines."""

    text: str
    kind: ClassVar[str] = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs."""
        return [" ".join(part.split()) for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Code:
    """Commands or output, set in a monospaced font."""

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
    """A table whose first column names the rows.

    Numbers are written with `decimals` digits and set to the right; None is an en dash.
    `groups` are headings over the columns: (text, number of columns), left to right, all columns covered.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    groups: Sequence[tuple[str, int]] = ()
    decimals: int = 1
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    @property
    def marks(self) -> list[list[Mark]]:
        """The rows, each cell with its text and tone."""
        return [[Mark(self._text(mark.value), mark.tone) for mark in map(_mark, row)] for row in self.rows]

    @property
    def alignments(self) -> list[str]:
        """`left` for the first column and columns of words, `right` for columns of figures."""
        columns = zip(*self.marks, strict=True) if self.rows else [()] * len(self.columns)
        words = [any(str(mark.value)[:1].isalpha() for mark in column) for column in columns]
        return ["left" if i == 0 or word else "right" for i, word in enumerate(words)]

    def _text(self, value: str | float | None) -> str:
        if value is None:
            return "\N{EN DASH}"
        return value if isinstance(value, str) else f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Picture:
    """An image with lines of text under it. `alt` says what it shows to those who cannot see it."""

    image: Image.Image
    lines: Sequence[str | Mark] = ()
    alt: str = ""

    @property
    def source(self) -> str:
        """The image as a data URI."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

    @property
    def marks(self) -> list[Mark]:
        """The lines, each with its tone."""
        return [_mark(line) for line in self.lines]


@dataclass(frozen=True)
class Figure:
    """Pictures in a grid of fixed columns with headings, or, without `columns`, in rows that flow with the page.

    Small images are enlarged to `width` pixels with crisp pixels.
    """

    pictures: Sequence[Picture]
    columns: int | None = None
    headings: Sequence[str] = ()
    caption: str = ""
    width: int = 132
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Curve:
    """A line chart: series of (x, y) points over one pair of axes. Points that are not finite are left out."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x_label: str = "iteration"
    caption: str = ""
    kind: ClassVar[str] = "curve"

    @property
    def plot(self) -> "Plot":
        """The chart in the units of its SVG."""
        finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in self.series.items()}
        points = [point for line in finite.values() for point in line] or [(0.0, 0.0)]
        x_axis = Axis.over([x for x, _ in points], Plot.left, Plot.width - Plot.right)
        y_axis = Axis.over([y for _, y in points], Plot.height - Plot.bottom, Plot.top)
        lines = {
            name: " ".join(f"{x_axis.position(x):.1f},{y_axis.position(y):.1f}" for x, y in line)
            for name, line in finite.items()
            if line
        }
        last = {name: f"{line[-1][1]:.3g}" for name, line in finite.items() if line}
        return Plot(x_axis, y_axis, lines, last)


@dataclass(frozen=True)
class Axis:
    """Ticks of one axis and its map from values to SVG units."""

    ticks: list[float]
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """An axis that covers `values`, from `start` to `end` in SVG units."""
        low, high = min(values), max(values)
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high if high > low else low + 1)
        return cls([float(tick) for tick in ticks], float(ticks[0]), float(ticks[-1]), start, end)

    def position(self, value: float) -> float:
        """Where a value stands, SVG units."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Plot:
    """A curve laid out in the units of its SVG: axes, polylines by name, last values by name."""

    x_axis: Axis
    y_axis: Axis
    lines: dict[str, str]
    last: dict[str, str]
    width: ClassVar[int] = 460
    height: ClassVar[int] = 250
    left: ClassVar[int] = 48
    right: ClassVar[int] = 14
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = 40


Block = Text | Code | Tiles | Table | Figure | Curve


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; curves that follow one another stand side by side where there is room."""

    title: str
    blocks: Sequence[Block]


def write_report(path: str | Path, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Write a report that a browser opens from disk.

    Args:
        path: of the HTML file; missing folders are made.
        title: the heading of the page.
        sections: in order; a row of links at the top leads to them.
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
