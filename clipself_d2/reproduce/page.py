"""All tables on one HTML page, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from clipself_d2.reproduce.outcome import Outcome
from clipself_d2.reproduce.pace import duration
from clipself_d2.reproduce.render import labels, remarks, shown_columns
from clipself_d2.reproduce.table import Table
from clipself_d2.visualization.report import (
    Block,
    Cell,
    Code,
    Mark,
    Picture,
    Section,
    Text,
    Tile,
    Tiles,
    write_report,
)
from clipself_d2.visualization.report import Table as Grid

_LEAD = (
    "The tables and figures of CLIPSelf (arXiv 2310.01403, ICLR 2024), ours beside the paper's. Numbers are percent."
)


def write_page(
    path: Path, tables: Sequence[Table], outcomes: Mapping[str, Outcome], errors: Mapping[str, str], seconds: float
) -> Path:
    """Write the page.

    Args:
        path: of the HTML file; the pictures of `../TABLE-SCALE` are put into it.
        tables: all that are wanted, of one scale.
        outcomes: of those that are done, by the table's name.
        errors: what stopped others.
        seconds: that the runs took.

    Returns:
        The path.
    """
    sections = [_overview(tables, outcomes, errors, seconds)]
    for table in tables:
        blocks: list[Block]
        if outcome := outcomes.get(table.name):
            blocks = _outcome(table, outcome, path.parents[1] / f"{table.name}-{table.scale}")
        else:
            blocks = [Text(f"Failed: {errors[table.name]}" if table.name in errors else "Not there yet.")]
        command = Code(f"python tools/reproduce.py {table.name} --scale {table.scale}")
        sections.append(Section(table.label, [Text(table.title), *blocks, command]))
    return write_report(path, f"Reproduction, at the scale of the {tables[0].scale}", sections, _LEAD)


def verdict(outcome: Outcome) -> Mark:
    """Whether the rows of a table are ordered as the paper's, in the columns where the paper has numbers to compare."""
    orders = outcome["same_order"]
    if not orders:
        return Mark("nothing to compare", "quiet")
    if all(orders.values()):
        return Mark("✓ holds", "good")
    return Mark(f"✗ not in {list(orders.values()).count(False)} of {len(orders)} columns", "bad")


def _overview(
    tables: Sequence[Table], outcomes: Mapping[str, Outcome], errors: Mapping[str, str], seconds: float
) -> Section:
    rows: list[list[Cell]] = []
    for table in tables:
        failed = Mark("✗ failed", "bad") if table.name in errors else Mark("not there yet", "quiet")
        mark = verdict(outcomes[table.name]) if table.name in outcomes else failed
        rows.append([table.label, table.title, mark])
    compared = [outcome["same_order"] for outcome in outcomes.values() if outcome["same_order"]]
    held = sum(all(orders.values()) for orders in compared)
    tiles = [
        Tile("tables and figures", f"{len(outcomes)} of {len(tables)}", "are done"),
        Tile("the paper's order of rows", f"{held} of {len(compared)}", "hold it in every column"),
        Tile("time", duration(seconds), "of all runs, each counted once"),
    ]
    caption = "The order of rows is compared in every column in which the paper has two numbers or more."
    return Section("Overview", [Tiles(tiles), Grid(["table", "content", "the paper's order"], rows, caption)])


def _outcome(table: Table, outcome: Outcome, folder: Path) -> list[Block]:
    rows = outcome["rows"]
    columns, texts = labels(table.varies, rows)
    cells: list[list[Cell]] = [list(column) for column in texts]
    groups = [("", len(columns))]
    for column, sources in shown_columns(table.columns, rows):
        groups.append((column, len(sources)))
        for source in sources:
            columns.append(source)
            values = [row[source][column] for row in rows]
            cells.append([Mark(value, "strong" if source == "ours" else "quiet") for value in values])
    grid = Grid(columns, list(zip(*cells, strict=True)), remarks(outcome), groups)
    pictures = [name for name in outcome.get("figures", ()) if name.endswith(".png")]
    return [grid, *(_picture(folder / name, table.title) for name in pictures)]


def _picture(path: Path, alt: str) -> Picture:
    with Image.open(path) as image:
        return Picture(image.convert("RGB"), alt, width=900)
