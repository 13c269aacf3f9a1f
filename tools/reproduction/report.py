"""A table's numbers beside the paper's, in the terminal, in Markdown, and all tables on one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from clipself_d2.visualization import report
from clipself_d2.visualization.report import Mark, Section, Tile
from reproduction.plan import Planner
from reproduction.session import duration, recorded
from reproduction.tables import Row, Table

Outcome = dict[str, Any]
_LEAD = (
    "The tables and figures of CLIPSelf (arXiv 2310.01403, ICLR 2024), ours beside the paper's. Numbers are percent."
)


def gather(table: Table, planner: Planner) -> Outcome:
    """The numbers of a table whose runs are finished.

    Returns:
        `{"table", "scale", "title", "varies", "columns", "note", "rows", "same_order"}`. A row is `{"label",
        "paper_label", "ours": {column: percent or None}, "paper": {..}, "data", "seconds", "folder", "command"}`.
        `same_order` says, for each column that can be compared, whether our rows are ordered as the paper's. A row
        with a key has its numbers also under that.
    """
    rows = [_gather_row(table, row, planner) for row in table.rows]
    orders = {column: same_order(rows, column) for column in table.columns}
    return {
        **{row.key: found["ours"] for row, found in zip(table.rows, rows, strict=True) if row.key},
        "table": table.name,
        "scale": table.scale,
        "title": table.heading,
        "varies": table.varies,
        "columns": list(table.columns),
        "note": table.note,
        "rows": rows,
        "same_order": {column: same for column, same in orders.items() if same is not None},
    }


def table_folder(table: Table, planner: Planner) -> Path:
    """Where the table's numbers and figures are written."""
    return planner.output / f"{table.name}-{table.scale}"


def _gather_row(table: Table, row: Row, planner: Planner) -> Outcome:
    job = planner.job(row.run)
    finished = recorded(job)
    ours = [_number(finished["results"], metric) for metric in table.metrics(row)]
    return {
        "label": row.label,
        "paper_label": row.paper_label,
        "ours": dict(zip(table.columns, ours, strict=True)),
        "paper": dict(zip(table.columns, row.paper or (None,) * len(table.columns), strict=True)),
        "data": row.run.dataset or job.config.dataloader.get("test", {}).get("dataset", ""),
        "seconds": finished["seconds"],
        "folder": str(job.folder),
        "command": finished["command"],
    }


def _number(results: Any, metric: str) -> float | None:
    for key in metric.split("."):
        results = results.get(key) if isinstance(results, dict) else None
    return None if results is None or math.isnan(results) else float(results)


def same_order(rows: Sequence[Outcome], column: str) -> bool | None:
    """Whether our rows are ordered as the paper's; rows of different data sets are not compared.

    Returns:
        None where the paper has no two different numbers to compare.
    """
    known = [row for row in rows if None not in (row["paper"][column], row["ours"][column])]
    signs = [
        (a["paper"][column] - b["paper"][column]) * (a["ours"][column] - b["ours"][column])
        for a, b in combinations(known, 2)
        if a["data"] == b["data"] and a["paper"][column] != b["paper"][column]
    ]
    return all(sign > 0 for sign in signs) if signs else None


def headings(outcome: Outcome) -> list[tuple[str, str]]:
    """What the shown columns are of: ("label" or "paper_label", heading), or ("ours" or "paper", column).

    Columns of the paper that would be empty are left out.
    """
    rows = outcome["rows"]
    found = [("label", outcome["varies"])]
    if any(row["paper_label"] for row in rows):
        found.append(("paper_label", "paper's row"))
    for column in outcome["columns"]:
        found.append(("ours", column))
        if any(row["paper"][column] is not None for row in rows):
            found.append(("paper", column))
    return found


def remarks(outcome: Outcome) -> str:
    """The note, and whether the rows are ordered as the paper's."""
    orders = outcome["same_order"]
    other = ", ".join(column for column, same in orders.items() if not same)
    verdict = f"The rows' order is not the paper's in {other}." if other else "The rows' order is the paper's."
    return f"{outcome['note']} {verdict if orders else ''}".strip()


def cells(outcome: Outcome) -> list[list[str]]:
    """Heading and rows as text."""
    columns = []
    for source, name in headings(outcome):
        if source.endswith("label"):
            columns.append([name, *(row[source] for row in outcome["rows"])])
        else:
            values = [row[source][name] for row in outcome["rows"]]
            heading = name if source == "ours" else f"{name}, paper"
            columns.append([heading, *("" if value is None else f"{value:.1f}" for value in values)])
    return list(map(list, zip(*columns, strict=True)))


def markdown(outcome: Outcome) -> str:
    """The table in Markdown."""
    header, *rows = cells(outcome)
    rule = ["---", *("---:" for _ in header[1:])]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    return "\n".join([f"**{outcome['title']}**", "", *lines, "", remarks(outcome)]).rstrip()


def rich_table(outcome: Outcome) -> Group:
    """The table for a rich console."""
    grid = RichTable()
    for (source, _), (heading, *texts) in zip(headings(outcome), zip(*cells(outcome), strict=True), strict=True):
        # Headings of numbers are stacked, one word per line, to leave the width to the labels.
        words = [heading] if source.endswith("label") else heading.split()
        justify: Literal["left", "right"] = "left" if source.endswith("label") else "right"
        width = max(map(len, [*words, *texts]))
        grid.add_column(Text(heading), justify=justify, style="dim" if "paper" in source else "", max_width=width)
    for row in cells(outcome)[1:]:
        grid.add_row(*map(Text, row))  # brackets are no markup
    return Group(Text(outcome["title"], style="bold"), grid, Text(remarks(outcome)))


def write_page(
    path: Path,
    tables: Sequence[Table],
    outcomes: Mapping[str, Outcome],
    errors: Mapping[str, Exception],
    seconds: float,
) -> None:
    """Write the HTML page.

    Args:
        path: of the file; the figures of `../TABLE-SCALE` are put into it.
        tables: all that are wanted, of one scale.
        outcomes: of those that are done, by the table's name.
        errors: what stopped others.
        seconds: that the runs took.
    """
    marks = {
        table.name: verdict(outcomes[table.name])
        if table.name in outcomes
        else Mark("✗ failed", "bad")
        if table.name in errors
        else Mark("not there yet", "quiet")
        for table in tables
    }
    compared = [outcome["same_order"] for outcome in outcomes.values() if outcome["same_order"]]
    held = sum(all(orders.values()) for orders in compared)
    tiles = [
        Tile("tables and figures", f"{len(outcomes)} of {len(tables)}", "are done"),
        Tile("the paper's order of rows", f"{held} of {len(compared)}", "hold it in every column"),
        Tile("time", duration(seconds), "of all runs, each counted once"),
    ]
    caption = "The order is that of rows of one data set, in every column in which the paper has two numbers or more."
    rows: list[list[report.Cell]] = [[table.label, table.title, marks[table.name]] for table in tables]
    grid = report.Table(["table", "content", "the paper's order"], rows, caption)
    sections = [Section("Overview", [report.Tiles(tiles), grid])]
    for table in tables:
        blocks: list[report.Block] = [report.Text(table.title)]
        if table.name in outcomes:
            blocks += _blocks(outcomes[table.name], path.parents[1] / f"{table.name}-{table.scale}")
        else:
            blocks.append(report.Text(f"Failed: {errors[table.name]}" if table.name in errors else "Not there yet."))
        blocks.append(report.Code(f"python tools/reproduce.py {table.name} --scale {table.scale}"))
        sections.append(Section(table.label, blocks))
    report.write_report(path, f"Reproduction, at the scale of the {tables[0].scale}", sections, _LEAD)


def verdict(outcome: Outcome) -> Mark:
    """Whether the rows of a table are ordered as the paper's."""
    orders = outcome["same_order"]
    if not orders:
        return Mark("nothing to compare", "quiet")
    if all(orders.values()):
        return Mark("✓ holds", "good")
    return Mark(f"✗ not in {list(orders.values()).count(False)} of {len(orders)} columns", "bad")


def _blocks(outcome: Outcome, folder: Path) -> list[report.Block]:
    """The table and its figures."""
    columns = headings(outcome)
    rows: list[list[report.Cell]] = [
        [
            row[source]
            if source.endswith("label")
            else Mark(row[source][name], "strong" if source == "ours" else "quiet")
            for source, name in columns
        ]
        for row in outcome["rows"]
    ]
    groups: dict[str, int] = {}
    for source, name in columns:
        group = "" if source.endswith("label") else name
        groups[group] = groups.get(group, 0) + 1
    names = [name if source.endswith("label") else source for source, name in columns]
    blocks: list[report.Block] = [report.Table(names, rows, remarks(outcome), list(groups.items()))]
    for name in outcome.get("figures", ()):
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                blocks.append(report.Figure(image.convert("RGB"), outcome["title"], width=900))
    return blocks
